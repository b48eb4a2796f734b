"""OpenTelemetry traces: where spans go (`export`), what a caller's trace is (`context`), and the
span of a request in an engine (`llm_request`). The SDK is imported only when traces are on.

No span holds any text of a prompt or an answer.
"""
