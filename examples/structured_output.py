"""An answer that follows a JSON schema."""

import json
import os

from openai import OpenAI

url = os.environ.get("STOKER_URL", "http://127.0.0.1:8000")
client = OpenAI(base_url=f"{url}/v1", api_key="unused")
schema = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "large": {"type": "boolean"}},
    "required": ["city", "large"],
    "additionalProperties": False,
}
answer = client.chat.completions.create(
    model=client.models.list().data[0].id,
    messages=[{"role": "user", "content": "Name a city and say whether it is large, as JSON."}],
    temperature=0,
    max_tokens=200,
    response_format={
        "type": "json_schema",
        "json_schema": {"name": "city", "schema": schema, "strict": True},
    },
)
print(json.loads(answer.choices[0].message.content or ""))
