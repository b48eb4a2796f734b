#!/bin/sh
# A streamed answer with curl.
curl -sSN --fail-with-body "${STOKER_URL:-http://127.0.0.1:8000}/v1/chat/completions" \
  -H 'Content-Type: application/json' \
  -d '{
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "model": "'"${STOKER_MODEL:-smollm2}"'",
    "temperature": 0,
    "max_tokens": 32,
    "stream": true
  }'
