"""A function call: the model fills in the arguments, within their schema."""

import json
import os

from openai import OpenAI

url = os.environ.get("STOKER_URL", "http://127.0.0.1:8000")
client = OpenAI(base_url=f"{url}/v1", api_key="unused")
answer = client.chat.completions.create(
    model=client.models.list().data[0].id,
    messages=[{"role": "user", "content": "What is the weather in Paris?"}],
    temperature=0,
    max_tokens=200,
    tools=[
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "The weather in a city",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string", "maxLength": 20}},
                    "required": ["city"],
                    "additionalProperties": False,
                },
            },
        }
    ],
    tool_choice={"type": "function", "function": {"name": "get_weather"}},
)
for call in answer.choices[0].message.tool_calls or []:
    if call.type == "function":
        print(call.function.name, json.loads(call.function.arguments))
