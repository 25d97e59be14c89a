"""A fake of vLLM's API server, which nodes whose PYTHONPATH begins here start in its place."""

import argparse
import os
import threading

from fake_vllm import FakeVllm

from selfstudy_engine.engine.guard import KEY_VARIABLE

LATENCY_SECONDS = 0.05
"""So that a round lasts long enough for a node to be killed in it."""


def main() -> None:
    """Serve until the end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    options, _ = parser.parse_known_args()
    with FakeVllm("tiny", os.environ[KEY_VARIABLE], options.port, options.host) as fake:
        fake.latency_seconds = LATENCY_SECONDS
        print(f"listening on {options.host}", flush=True)  # noqa: T201
        threading.Event().wait()


if __name__ == "__main__":
    main()
