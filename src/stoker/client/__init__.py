"""Speaking to a server's API from this side: what the command line and the benchmarks use.

Requests travel over the router's own connection pool, so a client costs little beside the engine
it asks. Nothing here knows an engine, a model or a terminal.
"""

from stoker.client.http import ApiClient, ServerRefused, ServerUnreachable

__all__ = ["ApiClient", "ServerRefused", "ServerUnreachable"]
