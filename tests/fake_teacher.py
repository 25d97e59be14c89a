"""A fake teacher in a thread: a chat endpoint that answers, lies, or fails on command."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

from fake_http import ServerInThread

KEY = "sk-fake-secret"
GOOD_REASON = "An alkyl chain with one bromine atom at its end."


@dataclass(frozen=True)
class Reply:
    """What comes back for one question."""

    text: str = GOOD_REASON
    status: int = 200
    retry_after: str | None = "0.01"
    """The client waits that long before the next try, not up to 8 s; in seconds."""
    finish_reason: str = "stop"
    usage: bool = True
    num_output_tokens: int = 20
    hang: bool = False
    """Answer nothing until the server closes."""
    refuse: bool = False
    """Close the connection without a byte."""
    cut: bool = False
    """Close it in the middle of the body."""
    body: str | None = None
    """The whole body, in place of a completion."""


class FakeTeacher(ServerInThread):
    """The server; use it as a context manager.

    Attributes:
        explain: answers questions for a reason, predict those for a value; both get the question.
        script: replies that the next questions get instead, whatever they ask.
        questions: everything asked, in order.
        answered: how often each question got a whole answer, which is what a provider charges for.
        bodies: the requests.
        keys: the keys that came along.
        max_in_flight: most questions at once.
        num_hanging: questions that are left without an answer now.
        latency_seconds: of every answer.
    """

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.explain: Callable[[str], Reply] = lambda question: Reply()
        self.predict: Callable[[str], Reply] = lambda question: Reply("50")
        self.script: list[Reply] = []
        self.questions: list[str] = []
        self.answered: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.max_in_flight = 0
        self.num_hanging = 0
        self.latency_seconds = 0.0
        self.num_prompt_tokens = 0
        self.num_output_tokens = 0
        self.lock = threading.Lock()
        self._in_flight = 0

    @property
    def url(self) -> str:
        """As a client of OpenAI's API takes it."""
        return f"{super().url}/v1"

    @property
    def explanations(self) -> list[str]:
        """Questions for a reason."""
        return [question for question in self.questions if not is_prediction(question)]

    @property
    def predictions(self) -> list[str]:
        """Questions for a value."""
        return [question for question in self.questions if is_prediction(question)]

    def reply_to(self, question: str) -> Reply:
        """Choose the reply, and take down that it was asked for."""
        with self.lock:
            self.questions.append(question)
            self._in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self._in_flight)
            if self.script:
                return self.script.pop(0)
        return self.predict(question) if is_prediction(question) else self.explain(question)

    def finish(self, question: str, reply: Reply, delivered: bool) -> None:
        """Take down what a provider would charge for."""
        with self.lock:
            self._in_flight -= 1
            if delivered:
                self.answered[question] += 1
                self.num_prompt_tokens += num_prompt_tokens(question)
                self.num_output_tokens += reply.num_output_tokens

    def hang(self) -> None:
        """Answer nothing until the server closes."""
        with self.lock:
            self.num_hanging += 1
        super().hang()


def is_prediction(question: str) -> bool:
    """Tell a question for a value from one for a reason."""
    return "Predict its" in question


def num_prompt_tokens(question: str) -> int:
    """Return what the fake counts for a question."""
    return len(question) // 4


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def do_POST(self) -> None:
        teacher: FakeTeacher = self.server.fake  # type: ignore[attr-defined]
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        question = body["messages"][0]["content"]
        teacher.bodies.append(body)
        teacher.keys.add(self.headers["authorization"])
        reply = teacher.reply_to(question)
        delivered = False
        try:
            time.sleep(teacher.latency_seconds)
            if reply.hang:
                teacher.hang()
            if reply.hang or reply.refuse:
                self.close_connection = True
                return
            delivered = reply.status == 200 and not reply.cut and reply.body is None
        finally:
            teacher.finish(question, reply, delivered)
        self._send(body["model"], question, reply)

    def _send(self, model: str, question: str, reply: Reply) -> None:
        message = {"role": "assistant", "content": reply.text}
        answer: dict[str, Any] = {
            "id": "chat-1",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [{"index": 0, "finish_reason": reply.finish_reason, "message": message}],
        }
        if reply.usage:
            tokens = (num_prompt_tokens(question), reply.num_output_tokens)
            answer["usage"] = {
                "prompt_tokens": tokens[0],
                "completion_tokens": tokens[1],
                "total_tokens": sum(tokens),
            }
        if reply.status != 200:
            answer = {"error": {"message": reply.text, "type": "failed", "code": None}}
        data = (json.dumps(answer) if reply.body is None else reply.body).encode()
        self.send_response(reply.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        if reply.retry_after is not None:
            self.send_header("retry-after", reply.retry_after)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if reply.cut else data)
        self.close_connection = self.close_connection or reply.cut
