"""From the command to the first token: `stoker serve` started, asked and stopped, several times.

    python benchmarks/startup.py [--model smollm2] [--repeats 5]

The clock starts before the process does and stops when the first streamed token arrives.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def first_token(port: int, deadline: float) -> None:
    """Wait for the server to accept, then for the first token of a streamed answer."""
    body = json.dumps(
        {"prompt": "The capital of France is", "max_tokens": 4, "stream": True, "temperature": 0}
    ).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions",
        data=body,
        headers={"Content-Type": "application/json"},
    )
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                for line in response:
                    if line.startswith(b"data: {"):
                        return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.01)
    raise SystemExit("the server did not answer in time")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    seconds = []
    for _ in range(arguments.repeats):
        port = free_port()
        start = time.monotonic()
        server = subprocess.Popen(
            [sys.executable, "-m", "stoker", "serve", arguments.model, "--port", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            first_token(port, start + 120)
            seconds.append(time.monotonic() - start)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)
    print(
        f"start to first token, {arguments.model}: median {statistics.median(seconds):.2f} s, "
        f"min {min(seconds):.2f}, max {max(seconds):.2f} of {arguments.repeats}"
    )


if __name__ == "__main__":
    main()
