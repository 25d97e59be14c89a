"""The teacher against a fake chat endpoint: only reasons that stand a re-prediction are kept."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest

from selfstudy_engine.data.config import RunConfig, load_config
from selfstudy_engine.data.errors import ServerError, UsageError
from selfstudy_engine.data.schema import Exemplar, Molecule
from selfstudy_engine.engine.teacher import candidates, teach

Answer = tuple[int, str]


class FakeTeacher:
    """Answers chat requests with what `explain` and `predict` say; both get the question."""

    def __init__(self) -> None:
        self.questions: list[str] = []
        self.explain: Callable[[str], Answer] = lambda question: (200, "A chain with one end.")
        self.predict: Callable[[str], Answer] = lambda question: (200, "50")
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.teacher = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    @property
    def predictions(self) -> list[str]:
        return [question for question in self.questions if "Predict the" in question]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def do_POST(self) -> None:
        teacher: FakeTeacher = self.server.teacher  # type: ignore[attr-defined]
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        question = body["messages"][0]["content"]
        teacher.questions.append(question)
        kind = teacher.predict if "Predict the" in question else teacher.explain
        status, text = kind(question)
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        answer: dict[str, Any] = {
            "id": "chat-1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [choice],
        }
        data = json.dumps(answer if status == 200 else {"error": {"message": text}}).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.send_header("retry-after-ms", "10")
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def teacher() -> Iterator[FakeTeacher]:
    with FakeTeacher() as server:
        yield server


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")


@pytest.fixture
def eight(tmp_path: Path) -> Path:
    """A table of eight molecules, 10 to 80 °C."""
    path = tmp_path / "eight.csv"
    rows = [f"{'C' * length}Br,{10 * length}" for length in range(1, 9)]
    path.write_text("smiles,value\n" + "\n".join(rows) + "\n", "utf-8")
    return path


def config_for(teacher: FakeTeacher, table: Path, num_exemplars: int = 1) -> RunConfig:
    return load_config(
        None,
        {
            "table.path": str(table),
            "teacher.url": teacher.url,
            "teacher.model": "a-teacher",
            "teacher.num_exemplars": num_exemplars,
        },
    )


def ask(teacher: FakeTeacher, table: Path, num_exemplars: int = 1) -> list[Exemplar]:
    return asyncio.run(teach(config_for(teacher, table, num_exemplars)))


def test_a_reason_from_which_the_value_follows_is_kept(teacher: FakeTeacher, eight: Path) -> None:
    [exemplar] = ask(teacher, eight)
    assert exemplar.reason == "A chain with one end."
    assert exemplar.source == "a-teacher"
    assert abs(exemplar.molecule.value - 50) <= 30


def test_the_explanation_sees_the_value_and_the_prediction_doesnt(
    teacher: FakeTeacher, eight: Path
) -> None:
    [exemplar] = ask(teacher, eight)
    explain, predict = teacher.questions[-2:]
    value = f"{exemplar.molecule.value:.0f}"
    assert f"Melting point (°C): {value}" in explain
    assert value not in predict
    assert f"SMILES: {exemplar.molecule.smiles}\nReason: A chain with one end." in predict


def test_a_reason_that_contains_the_value_is_dropped(teacher: FakeTeacher, eight: Path) -> None:
    def leak(question: str) -> Answer:
        value = question.split("Melting point (°C): ")[1].split("\n", maxsplit=1)[0]
        return 200, f"It melts at {value} °C."

    teacher.explain = leak
    with pytest.raises(UsageError, match=r"a-teacher.*no reason.*within 30 °C.*--teacher-model"):
        ask(teacher, eight)
    assert teacher.predictions == []


@pytest.mark.parametrize("answer", ["500", "I can't say.", "40-60", ""])
def test_a_wrong_prediction_drops_the_reason(
    teacher: FakeTeacher, eight: Path, answer: str
) -> None:
    teacher.predict = lambda question: (200, answer)
    with pytest.raises(UsageError, match="no reason from which it could predict"):
        ask(teacher, eight)
    assert len(teacher.predictions) == 4  # candidates of one band


@pytest.mark.parametrize("answer", ["50", "50 °C", " 50.0 °C.\n", "+50"])
def test_a_number_with_its_unit_is_a_prediction(
    teacher: FakeTeacher, eight: Path, answer: str
) -> None:
    teacher.predict = lambda question: (200, answer)
    assert len(ask(teacher, eight)) == 1


def test_after_a_dropped_reason_the_next_molecule_is_tried(
    teacher: FakeTeacher, eight: Path
) -> None:
    teacher.explain = lambda question: (200, "" if len(teacher.questions) == 1 else "A chain.")
    [exemplar] = ask(teacher, eight)
    assert exemplar.reason == "A chain."
    assert len(teacher.questions) >= 3


def test_a_reason_of_several_lines_becomes_one(teacher: FakeTeacher, eight: Path) -> None:
    teacher.explain = lambda question: (200, " A chain.\n\nOne  end.\n")
    assert ask(teacher, eight)[0].reason == "A chain. One end."


def test_exemplars_span_the_range(teacher: FakeTeacher, eight: Path) -> None:
    def measured(question: str) -> Answer:
        length = question.split("SMILES: ")[1].split("\n", maxsplit=1)[0].count("C")
        return 200, str(10 * length)

    teacher.predict = measured
    found = ask(teacher, eight, num_exemplars=4)
    assert [int((e.molecule.value - 10) // 20) for e in found] == [0, 1, 2, 3]


def test_too_few_exemplars_are_kept_with_a_warning(
    teacher: FakeTeacher, eight: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teacher.predict = lambda question: (200, "10")  # right for the lower half only
    found = ask(teacher, eight, num_exemplars=4)
    assert 1 <= len(found) < 4
    assert f"the teacher explained {len(found)} of 4 molecules" in caplog.text


def test_a_busy_teacher_is_asked_again(teacher: FakeTeacher, eight: Path) -> None:
    def busy(question: str) -> Answer:
        return (429, "slow down") if len(teacher.questions) < 3 else (200, "A chain.")

    teacher.explain = busy
    assert ask(teacher, eight)[0].reason == "A chain."


@pytest.mark.parametrize("status", [401, 500])
def test_a_teacher_that_fails_is_an_error_with_its_message(
    teacher: FakeTeacher, eight: Path, status: int
) -> None:
    teacher.explain = lambda question: (status, "no such account")
    with pytest.raises(ServerError, match=f"a-teacher at {teacher.url}/? failed.*no such account"):
        ask(teacher, eight)


@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_key_is_named_before_anything_is_asked(
    teacher: FakeTeacher, eight: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv("OPENAI_API_KEY")
    else:
        monkeypatch.setenv("OPENAI_API_KEY", value)
    with pytest.raises(UsageError, match="set OPENAI_API_KEY"):
        ask(teacher, eight)
    assert teacher.questions == []


def molecules(count: int) -> list[Molecule]:
    return [Molecule(f"K{i}", "", "C" * (i + 1), float(i)) for i in range(count)]


def test_candidates_come_from_bands_of_equal_size() -> None:
    bands = list(candidates(molecules(100), 10, seed=0))
    assert [{int(m.value) // 10 for m in band} for band in bands] == [{i} for i in range(10)]
    assert all(len(band) == 4 for band in bands)


def test_candidates_are_repeatable_by_seed() -> None:
    assert list(candidates(molecules(50), 5, 1)) == list(candidates(molecules(50), 5, 1))
    assert list(candidates(molecules(50), 5, 1)) != list(candidates(molecules(50), 5, 2))


def test_no_molecule_is_a_candidate_twice() -> None:
    """A table smaller than the number of exemplars gives fewer of them, not the same again."""
    chosen = [m.molecule_id for band in candidates(molecules(5), 10, 0) for m in band]
    assert len(chosen) == len(set(chosen))
