"""A whole loop with a key for its server and one for its teacher: python secret_loop.py FOLDER.

FOLDER/loop.toml is its configuration. Server and teacher are fakes in this process; the loop, its
training and its report are real. Writes FOLDER/seen.json: which command lines showed a secret.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from fake_teacher import FakeTeacher, Reply
from fake_vllm import FakeVllm

SERVER_KEY = "a-server-key-that-nobody-may-see"
TEACHER_KEY = "sk-a-teacher-key-that-nobody-may-see"
LETTERS = str.maketrans("0123456789", "ghijklmnop")


def explain(question: str) -> Reply:
    """Explain each molecule in words of its own."""
    word = hashlib.sha256(question.encode()).hexdigest()[:12].translate(LETTERS)
    return Reply(f"A chain of its own kind: {word}.")


def watch(seen: dict[str, str], ended: threading.Event) -> None:
    """Look at the command lines of all processes until the end."""
    secrets = (SERVER_KEY.encode(), TEACHER_KEY.encode())
    while not ended.is_set():
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                line = (path / "cmdline").read_bytes()
                if any(secret in line for secret in secrets):
                    seen["leak"] = line.replace(b"\0", b" ").decode()
                if b"selfstudy_engine" in line:
                    seen[path.name] = line.replace(b"\0", b" ").decode()
        time.sleep(0.02)


def main(folder: Path) -> int:
    """Run the loop; returns its exit code."""
    seen: dict[str, str] = {}
    ended = threading.Event()
    with FakeVllm(api_key=SERVER_KEY) as server, FakeTeacher() as teacher:
        teacher.explain, teacher.predict = explain, lambda question: Reply("55")
        # Under this name a teacher isn't taken for a server of ours, whose key it would get.
        teacher_url = teacher.url.replace("127.0.0.1", "127.1")
        command = [sys.executable, "-m", "selfstudy_engine.cli", "-v", "loop"]
        command += ["--config", str(folder / "loop.toml"), "--runs", str(folder / "runs")]
        command += ["--server", server.url, "--teacher-url", teacher_url]
        keys = {"SELFSTUDY_SERVER_KEY": SERVER_KEY, "OPENAI_API_KEY": TEACHER_KEY}
        watcher = threading.Thread(target=watch, args=(seen, ended), daemon=True)
        watcher.start()
        code = subprocess.run(command, env=os.environ | keys, check=False).returncode
        ended.set()
        watcher.join()
        assert teacher.keys == {f"Bearer {TEACHER_KEY}"}
    (folder / "seen.json").write_text(json.dumps(seen))
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
