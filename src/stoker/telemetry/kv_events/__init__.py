"""Publishes what the engine's prefix cache holds, in vLLM's schema over ZeroMQ.

`config` reads `--kv-events-config`, `wire` writes the messages, `publisher` sends and replays them.
"""
