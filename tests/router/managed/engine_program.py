"""A program that looks like an engine to the supervisor: `… serve MODEL --port P …`.

Told by its environment to end soon (`DIES_AFTER`, seconds), or to ignore SIGTERM (`STUBBORN`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Engine(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        self.reply({"object": "list", "data": [{"id": name}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.reply({"pid": os.getpid()})

    def reply(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if os.environ.get("STUBBORN"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.environ.get("WITH_CHILD"):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(f"child {child.pid}")
name = sys.argv[sys.argv.index("--served-model-name") + 1]
port = int(sys.argv[sys.argv.index("--port") + 1])
print(f"engine {os.getpid()} serves {name}", flush=True)
if "DIES_AFTER" in os.environ:
    threading.Timer(float(os.environ["DIES_AFTER"]), lambda: os._exit(3)).start()
ThreadingHTTPServer(("127.0.0.1", port), Engine).serve_forever()
