"""`selfstudy-engine teach` and `loop --teacher-url`: stopped, continued, nothing paid twice."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
from conftest import MakeConfig, QuietReporter
from fake_teacher import KEY, FakeTeacher, Reply
from fake_vllm import FakeVllm
from waiting import wait_for

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.errors import BudgetError, RunFolderError, UsageError
from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.engine.loop import run_loop

NUM_EXEMPLARS = 6
DIGITS_TO_LETTERS = str.maketrans("0123456789", "ghijklmnop")
PRICES = ("--price-in", "1000", "--price-out", "2000", "--teacher-max-tokens", "50")


@pytest.fixture
def fake() -> Iterator[FakeTeacher]:
    with FakeTeacher() as server:
        server.predict = lambda question: Reply("55")  # the table goes from 15 to 95
        server.explain = lambda question: Reply(f"A chain of its own kind: {name_for(question)}.")
        yield server


def name_for(question: str) -> str:
    """Return letters that no other question has."""
    return hashlib.sha256(question.encode()).hexdigest()[:12].translate(DIGITS_TO_LETTERS)


class Command:
    """`selfstudy-engine teach` as a process of its own."""

    def __init__(self, fake: FakeTeacher, table: Path, folder: Path) -> None:
        self.out = folder / "made" / "exemplars.jsonl"
        self.out.parent.mkdir()
        self.answers = self.out.with_suffix(".answers.jsonl")
        self.environment = os.environ | {"OPENAI_API_KEY": KEY}
        self.environment.pop("SELFSTUDY_SERVER_KEY", None)
        self.arguments = [
            *(sys.executable, "-m", "selfstudy_engine.cli", "teach", "--out", str(self.out)),
            *("--teacher-url", fake.url, "--teacher-model", "a-teacher", "--table", str(table)),
            *("--teacher-exemplars", str(NUM_EXEMPLARS), "--tolerance", "100"),
        ]

    def start(self, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.arguments, *more],
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *more: str) -> tuple[int, str, str]:
        with self.start(*more) as process:
            out, err = process.communicate(timeout=120)
        return process.returncode, out, err


@pytest.fixture
def command(fake: FakeTeacher, table: Path, tmp_path: Path) -> Command:
    return Command(fake, table, tmp_path)


def test_exemplars_are_written_and_everything_is_told(
    command: Command, fake: FakeTeacher, tmp_path: Path
) -> None:
    code, out, err = command.run(*PRICES)
    assert (code, out.splitlines()[0]) == (0, f"6 of 6 molecules explained: {command.out}"), err
    assert "rejected reasons: none" in out
    assert "asked: 12 calls" in out
    assert "cost" in out
    exemplars = load_exemplars(command.out)
    assert len(exemplars) == NUM_EXEMPLARS
    assert {exemplar.source for exemplar in exemplars} == {"a-teacher"}
    row = orjson.loads(command.out.read_bytes().splitlines()[0])
    assert list(row) == ["name", "smiles", "value", "reason", "source"]
    assert len(err.splitlines()) == NUM_EXEMPLARS
    assert err.splitlines()[-1].endswith(" explained")
    for path in tmp_path.rglob("*.*"):
        assert path.is_dir() or KEY not in path.read_text("utf-8")
    assert KEY not in out + err
    assert fake.keys == {f"Bearer {KEY}"}


def test_a_second_call_pays_nothing(command: Command, fake: FakeTeacher) -> None:
    command.run()
    before = command.out.read_bytes()
    num_asked = len(fake.questions)
    code, out, _ = command.run()
    assert code == 0
    assert f"{num_asked} answers were known" in out
    assert len(fake.questions) == num_asked
    assert command.out.read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_call_continues_and_pays_nothing_twice(
    command: Command, fake: FakeTeacher, number: signal.Signals
) -> None:
    explain = fake.explain
    fake.explain = lambda question: (
        Reply(hang=True) if len(fake.questions) > 6 else explain(question)
    )
    with command.start("--teacher-concurrency", "2") as process:
        wait_for(lambda: fake.num_hanging == 2 or process.poll() is not None)
        assert KEY.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    if number != signal.SIGKILL:
        assert err.splitlines()[-1] == "Stopped; what was finished is kept."
        assert "Traceback" not in err
    assert not command.out.exists()
    kept = [orjson.loads(line) for line in command.answers.read_bytes().splitlines()]
    assert sum(answer["lost"] for answer in kept) == (0 if number == signal.SIGKILL else 2)
    num_kept = sum(not answer["lost"] for answer in kept)
    assert num_kept == fake.answered.total() > 0
    with command.answers.open("ab") as file:
        file.write(b'{"key": "half a li')
    fake.explain = explain
    code, out, err = command.run()
    assert code == 0, err
    assert f"{num_kept} answers were known" in out
    assert len(load_exemplars(command.out)) == NUM_EXEMPLARS
    assert max(fake.answered.values()) == 1


def test_the_budget_says_what_was_kept_and_how_to_continue(
    command: Command, fake: FakeTeacher
) -> None:
    more = (*PRICES, "--teacher-concurrency", "1")
    code, out, err = command.run(*more, "--max-cost", "1")
    assert code == 1
    assert err.splitlines()[-1].startswith("Error: the next question to the teacher could cost up")
    assert "a higher --max-cost continues, and pays for nothing again" in err
    kept = load_exemplars(command.out)
    assert f"{len(kept)} of 6 molecules explained: {command.out}" in out
    assert f"answers: {command.answers}" in out
    assert 0 < len(kept) < NUM_EXEMPLARS
    code, out, _ = command.run(*more, "--max-cost", "20")
    assert (code, len(load_exemplars(command.out))) == (0, NUM_EXEMPLARS)
    assert max(fake.answered.values()) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--max-cost", "2"), "max_cost (2) can't be kept without prices; give --price-in and"),
        (("--price-in", "2"), "price_in and price_out go together"),
        (("--teacher-url", "https://me:secret@host/v1"), "leave the key out, set OPENAI_API_KEY"),
        (("--teacher-url", "host/v1"), "teacher.url"),
    ],
)
def test_a_wrong_call_asks_nothing(
    command: Command, fake: FakeTeacher, more: tuple[str, ...], message: str
) -> None:
    code, _, err = command.run(*more)
    assert code == 2
    assert message in " ".join(err.split())
    assert "secret" not in err
    assert fake.questions == []
    assert not list(command.out.parent.iterdir())


def test_a_missing_key_is_named_before_anything_is_asked(
    command: Command, fake: FakeTeacher
) -> None:
    command.environment["OPENAI_API_KEY"] = ""
    code, _, err = command.run()
    assert (code, fake.questions) == (2, [])
    assert "set OPENAI_API_KEY" in err
    assert not list(command.out.parent.iterdir())


def test_a_server_of_ours_gets_its_own_key(command: Command, fake: FakeTeacher) -> None:
    command.environment["SELFSTUDY_SERVER_KEY"] = "own"
    assert command.run()[0] == 0
    assert fake.keys == {"Bearer own"}


def test_what_was_changed_by_hand_stays(command: Command, fake: FakeTeacher) -> None:
    """The documentation asks for it, and the same command is how one goes on."""
    assert command.run()[0] == 0
    changed = command.out.read_bytes().replace(b"A chain", b"A branched chain", 1)
    command.out.write_bytes(changed)
    num_asked = len(fake.questions)
    code, _, err = command.run()
    assert (code, command.out.read_bytes()) == (2, changed)
    assert "has lines that these answers don't give (changed by hand" in err
    command.out.unlink()
    assert command.run()[0] == 0
    assert len(fake.questions) == num_asked


def test_a_file_of_somebody_elses_is_left_alone(command: Command, fake: FakeTeacher) -> None:
    command.out.write_text("precious", "utf-8")
    code, _, err = command.run()
    assert code == 2
    assert "isn't of an earlier call" in err
    assert command.out.read_text("utf-8") == "precious"
    assert fake.questions == []


def test_an_unable_teacher_is_told_by_what_it_did_wrong(
    command: Command, fake: FakeTeacher
) -> None:
    fake.explain = lambda question: Reply("Two nitro groups sit on a benzene ring.")
    code, out, err = command.run(*PRICES)
    assert code == 2
    assert "no reason that stands the checks (false claim: 24)" in err
    assert "0 of 6 molecules explained\nrejected reasons: false claim: 24\n" in out
    assert "asked: 24 calls" in out
    assert not command.out.exists()


class Loop:
    """`loop --teacher-url`, up to where the run begins: the last step is stopped on purpose."""

    def __init__(self, config: RunConfig, runs: Path, vllm: FakeVllm) -> None:
        self.config = config
        self.runs = runs
        self.folder = RunFolder(runs / config.name)
        self._vllm = vllm

    def __call__(self, key: str = KEY) -> QuietReporter:
        reporter = QuietReporter()

        def begin(*arguments: object) -> None:
            raise InterruptedError

        with pytest.raises(InterruptedError):
            run_loop(
                self.config,
                self.runs,
                reporter,
                self._vllm.api_key,
                teacher_key=key,
                start_training=begin,  # type: ignore[arg-type]
            )
        return reporter


@pytest.fixture
def make_loop(
    fake: FakeTeacher, small_config: MakeConfig, tmp_path: Path
) -> Iterator[Callable[..., Loop]]:
    with FakeVllm() as vllm:

        def make(**values: object) -> Loop:
            teacher = {
                "teacher__url": fake.url,
                "teacher__model": "a-teacher",
                "teacher__num_exemplars": NUM_EXEMPLARS,
                "property__tolerance": 100.0,
                "server__url": vllm.url,
            }
            return Loop(small_config(**(teacher | values)), tmp_path / "runs", vllm)

        yield make


def test_a_loop_asks_before_it_begins_and_keeps_the_answers_in_the_run(
    make_loop: Callable[..., Loop], fake: FakeTeacher
) -> None:
    loop = make_loop()
    reporter = loop()
    assert reporter.phases[0] == "teacher a-teacher explains"
    assert reporter.phases[1].startswith("teacher took 12 calls, ")
    assert len(load_exemplars(loop.folder.exemplars())) == NUM_EXEMPLARS
    assert len(loop.folder.teacher_answers.read_bytes().splitlines()) == len(fake.questions)
    num_asked = len(fake.questions)
    reporter = loop(key="")  # it has its exemplars
    assert len(fake.questions) == num_asked
    assert "teacher a-teacher explains" not in reporter.phases


def test_a_loop_whose_teacher_failed_continues_where_it_was(
    make_loop: Callable[..., Loop], fake: FakeTeacher
) -> None:
    prices = {"teacher__price_in": 1000.0, "teacher__price_out": 2000.0}
    prices |= {"teacher__concurrency": 1, "teacher__max_tokens": 50}
    with pytest.raises(BudgetError, match="max-cost 1 is spent"):
        make_loop(**prices, teacher__max_cost=1.0)()
    assert 0 < len(fake.questions) < 2 * NUM_EXEMPLARS
    loop = make_loop(**prices, teacher__max_cost=20.0)
    loop()
    assert max(fake.answered.values()) == 1
    assert fake.answered.total() == 2 * NUM_EXEMPLARS
    assert loop.folder.identity.exists()


def test_a_loop_tells_what_was_rejected(
    make_loop: Callable[..., Loop], fake: FakeTeacher, caplog: pytest.LogCaptureFixture
) -> None:
    explain = fake.explain
    fake.explain = lambda question: explain(question) if len(fake.questions) < 3 else Reply("")
    make_loop(teacher__concurrency=1)()
    assert "explained 1 of 6 molecules; rejected reasons: no reason: 20" in caplog.text


def test_a_loop_without_a_key_and_in_a_folder_of_somebody_elses_asks_nothing(
    make_loop: Callable[..., Loop], fake: FakeTeacher
) -> None:
    loop = make_loop()
    with pytest.raises(UsageError, match="set OPENAI_API_KEY"):
        loop(key="")
    loop.folder.path.mkdir(parents=True)
    (loop.folder.path / "thesis.tex").touch()
    with pytest.raises(RunFolderError, match="isn't empty and isn't a run"):
        loop()
    assert fake.questions == []


def test_a_loop_without_a_teacher_never_loads_its_client() -> None:
    code = "import sys, selfstudy_engine.engine.loop; print('openai' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"
