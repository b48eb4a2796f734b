"""What happens to a request: sequences, blocks, schedule, sampling parameters, stop.

Knows no HTTP, no asyncio and no device; computes through `stoker.runner.base.ModelRunner`.
"""
