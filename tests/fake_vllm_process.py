"""A fake vLLM in a process of its own that dies: python fake_vllm_process.py PORT LIVES.

LIVES is a file: a line for each process to come, the number of texts after which it dies, or
"never", with which it doesn't start. One that finds no line lives on. Each takes its line away.
"""

import os
import sys
import threading
import time
from pathlib import Path

from fake_vllm import FakeVllm

from selfstudy_engine.engine.guard import KEY_VARIABLE

_GRACE_SECONDS = 0.3
"""So that the texts before the last reach who asked."""


def main(port: int, lives: Path) -> None:
    """Serve until the end."""
    first, *others = lives.read_text().splitlines() or [""]
    lives.write_text("".join(f"{line}\n" for line in others))
    if first == "never":
        raise SystemExit("no memory is left")
    left = int(first) if first else None
    one_by_one = threading.Lock()

    def answer(prompt: str, adapter: str, index: int) -> str:
        nonlocal left
        with one_by_one:
            if left == 0:
                time.sleep(_GRACE_SECONDS)
                os.kill(os.getpid(), 9)
            if left is not None:
                left -= 1
        number = hash((prompt, adapter, index)) % 10**6
        return f" The reason of number {number}.\nMelting point (°C): {number % 100}"

    with FakeVllm("tiny", os.environ[KEY_VARIABLE], port) as fake:
        fake.script = answer
        threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
