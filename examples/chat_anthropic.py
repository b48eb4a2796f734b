"""An answer with the anthropic SDK."""

import os

from anthropic import Anthropic
from openai import OpenAI

url = os.environ.get("STOKER_URL", "http://127.0.0.1:8000")
model = OpenAI(base_url=f"{url}/v1", api_key="unused").models.list().data[0].id
client = Anthropic(base_url=url, api_key="unused")
message = client.messages.create(
    model=model,
    max_tokens=32,
    messages=[{"role": "user", "content": "What is the capital of France?"}],
)
print("".join(block.text for block in message.content if block.type == "text"))
