"""What the training process says: one JSON line on stdout at a time."""

import sys
from typing import Any

import orjson


def write_line(record: dict[str, Any]) -> None:
    """Write a line at once: who reads it waits for it."""
    sys.stdout.write(orjson.dumps(record).decode() + "\n")
    sys.stdout.flush()
