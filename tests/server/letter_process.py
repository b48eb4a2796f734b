"""`python -m tests.server.letter_process DELAY DRAIN`: a server of letters in its own process.

Prints its address when it is ready.
"""

from __future__ import annotations

import sys

from stoker.listen import bind
from stoker.server.app import create_app
from stoker.server.config import ServerConfig
from stoker.server.keys import KeyRing
from stoker.server.run import serve
from stoker.telemetry.logging import setup_logging
from tests.server.doubles import letter_model


class EveryName(tuple[str, ...]):
    """Names of a model that goes by any, so that requests made up by a fuzzer reach it."""

    __slots__ = ()

    def __contains__(self, name: object) -> bool:
        return True


def main() -> None:
    delay, drain = (float(argument) for argument in sys.argv[1:])
    setup_logging()
    listener = bind("127.0.0.1", 0)
    app = create_app(
        ServerConfig(served_names=EveryName(("letters",))),
        KeyRing(),
        lambda: letter_model(delay=delay),
    )
    port = listener.getsockname()[1]
    serve(
        app,
        listener,
        drain_timeout=drain,
        on_ready=lambda: print(f"http://127.0.0.1:{port}", flush=True),
    )


if __name__ == "__main__":
    main()
