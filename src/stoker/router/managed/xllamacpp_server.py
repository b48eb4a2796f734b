"""llama.cpp's own HTTP server, from the `xllamacpp` wheel, with `llama-server`'s flags.

python xllamacpp_server.py --model FILE --host H --port P --alias NAME [--parallel N]
    [--ctx-size N] [--threads N] [--metrics]
"""

from __future__ import annotations

import argparse
import signal


def main() -> None:
    import xllamacpp

    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--alias", default="")
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--ctx-size", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--metrics", action="store_true")
    given = parser.parse_args()

    params = xllamacpp.CommonParams()
    params.model.path = given.model
    params.hostnames = [given.host]
    params.port = given.port
    params.model_alias = {given.alias} if given.alias else set()
    params.n_parallel = given.parallel
    params.n_ctx = given.ctx_size
    if given.threads:
        params.cpuparams.n_threads = given.threads
    params.endpoint_metrics = given.metrics
    params.use_jinja = True
    server = xllamacpp.Server(params)
    print(f"listening on {server.listening_address}", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
