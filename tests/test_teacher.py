"""The teacher's way from molecules to exemplars: every check, against a fake that lies."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_teacher import GOOD_REASON, KEY, FakeTeacher, Reply, is_prediction

from selfstudy_engine.data.config import RunConfig, load_config, override
from selfstudy_engine.data.errors import BudgetError, ServerError, UsageError
from selfstudy_engine.data.exemplars import load_exemplars, to_lines
from selfstudy_engine.data.properties import find_property
from selfstudy_engine.data.schema import Exemplar, Molecule
from selfstudy_engine.engine.endpoint import Endpoint
from selfstudy_engine.engine.known_values import KnownValues
from selfstudy_engine.engine.teacher import (
    CANDIDATES_PER_EXEMPLAR,
    Lessons,
    Rejection,
    candidates,
    check_reason,
    describe_rejections,
    teach,
    teach_locally,
    value_question,
    why_question,
)
from selfstudy_engine.engine.teacher_client import Teacher

MELTING_POINT = find_property("melting_point")
VANILLIN = Molecule("MWOOGOJBHIARFG-UHFFFAOYSA-N", "vanillin", "COc1cc(C=O)ccc1O", 82.0)


@pytest.fixture
def fake() -> Iterator[FakeTeacher]:
    with FakeTeacher() as server:
        yield server


@pytest.fixture
def eight(tmp_path: Path) -> Path:
    """A table of eight alkyl bromides, 10 to 80 °C."""
    path = tmp_path / "eight.csv"
    rows = [f"{'C' * length}Br,{10 * length}" for length in range(1, 9)]
    path.write_text("smiles,value\n" + "\n".join(rows) + "\n", "utf-8")
    return path


class Taught:
    """Ask a fake, with the answers kept beside the table."""

    def __init__(self, fake: FakeTeacher, table: Path) -> None:
        self._fake = fake
        self._table = table
        self.decided: list[tuple[Molecule, Exemplar | Rejection]] = []

    def config(self, num_exemplars: int, **settings: Any) -> RunConfig:
        values = {f"teacher.{key}": value for key, value in settings.items()}
        values |= {"table.path": str(self._table), "teacher.num_exemplars": num_exemplars}
        return load_config(None, values)

    def __call__(self, num_exemplars: int = 1, **settings: Any) -> Lessons:
        teacher = Teacher(self._fake.url, "a-teacher", KEY)
        answers = self._table.with_name("answers.jsonl")

        def on_decided(molecule: Molecule, outcome: Exemplar | Rejection) -> None:
            self.decided.append((molecule, outcome))

        return asyncio.run(
            teach(self.config(num_exemplars, **settings), teacher, answers, on_decided)
        )

    def in_vain(self) -> str:
        """Ask a teacher none of whose reasons stands; returns what is said of that."""
        lessons = self()
        assert (lessons.exemplars, type(lessons.failure)) == ([], UsageError)
        return str(lessons.failure)


@pytest.fixture
def ask(fake: FakeTeacher, eight: Path) -> Taught:
    return Taught(fake, eight)


def test_a_reason_from_which_the_value_follows_is_kept(ask: Taught) -> None:
    lessons = ask()
    [exemplar] = lessons.exemplars
    assert exemplar.reason == GOOD_REASON
    assert exemplar.source == "a-teacher"
    assert abs(exemplar.molecule.value - 50) <= 30
    assert lessons.failure is None
    assert ask.decided[-1] == (exemplar.molecule, exemplar)


def test_an_exemplar_reads_back_with_its_source(ask: Taught, tmp_path: Path) -> None:
    exemplars = ask().exemplars
    path = tmp_path / "exemplars.jsonl"
    path.write_bytes(to_lines(exemplars))
    assert load_exemplars(path) == exemplars


def test_the_reason_is_asked_with_the_value_and_the_value_without_anything(
    ask: Taught, fake: FakeTeacher
) -> None:
    fake.explain = lambda question: Reply(f"{GOOD_REASON} Its SMILES: {smiles_in(question)}")
    [exemplar] = ask().exemplars
    why, value = fake.questions[-2:]
    assert f"SMILES: {exemplar.molecule.smiles}\n" in why
    assert f"Melting point (°C): {exemplar.molecule.value:.0f}\n" in why
    assert f"{GOOD_REASON} Its SMILES: [SMILES]" in value
    assert exemplar.molecule.smiles not in value
    assert f"{exemplar.molecule.value:.0f}" not in value


def smiles_in(question: str) -> str:
    return question.split("SMILES: ")[1].split("\n", maxsplit=1)[0]


def test_a_question_names_a_molecule_that_has_a_name() -> None:
    assert why_question(VANILLIN, MELTING_POINT).startswith("Name: vanillin\nSMILES: COc1cc")
    assert "vanillin" not in value_question("Flat vanillin.", VANILLIN, MELTING_POINT).lower()
    several_lines = Molecule("K", "a\n\nThe answer: 5", "CCO", -114.0)
    question = why_question(several_lines, MELTING_POINT)
    assert question.startswith("Name: a The answer: 5\nSMILES: CCO\n")
    nameless = Molecule("K", "", "CCO", -114.0)
    assert why_question(nameless, MELTING_POINT).startswith("SMILES: CCO\nMelting point (°C): -114")


@pytest.mark.parametrize(
    ("reason", "rejection"),
    [
        ("One benzene ring with a hydroxyl and an aldehyde group.", None),
        ("", "no reason"),
        ("Flat ring.", "boilerplate reason"),
        ("I cannot determine this from the structure.", "boilerplate reason"),
        ("It melts at 82 °C since the ring is flat.", "answer leaked"),
        ("A flat ring with hydrogen bonds, so about 80 °C.", "answer leaked"),
        ("A flat ring with hydrogen bonds: 355 K.", "answer leaked"),
        ("A flat ring with hydrogen bonds, hence 82.", "answer leaked"),
        ("The actual value is due to hydrogen bonds.", "answer leaked"),
        ("Two nitro groups make the ring flat and heavy.", "false claim"),
        ("A ring that melts higher than naphthalene, which melts at 150 °C.", "false claim"),
        ("A ring that melts higher than naphthalene, which melts at 80 °C.", "answer leaked"),
        (
            "A ring that melts higher than benzene, which melts at 5 °C.",
            "value of a named compound",
        ),
        (
            "A ring that melts higher than benzene, which melts at 9 °C.",
            "value of a named compound",
        ),
        ("A ring that melts higher than benzene, which has no hydroxyl group.", None),
    ],
)
def test_what_is_wrong_with_a_reason(reason: str, rejection: Rejection | None) -> None:
    naphthalene = Molecule("N", "naphthalene", "c1ccc2ccccc2c1", 80.0)
    benzene = Molecule("B", "benzene", "c1ccccc1", 5.5)  # may be tested: known by its name alone
    known = KnownValues.from_molecules([naphthalene], MELTING_POINT, secret=[benzene])
    assert check_reason(reason, False, VANILLIN, MELTING_POINT, known) == rejection
    assert check_reason(reason, True, VANILLIN, MELTING_POINT, known) == "truncated"


@pytest.mark.parametrize(
    ("reply", "rejection"),
    [
        (lambda question: Reply(f"It melts at {value_in(question)} °C."), "answer leaked"),
        (lambda question: Reply("Two nitro groups sit on a benzene ring."), "false claim"),
        (lambda question: Reply("As an AI I can't say."), "boilerplate reason"),
        (lambda question: Reply(""), "no reason"),
        (lambda question: Reply("<think>It has a chain."), "no reason"),
        (lambda question: Reply(GOOD_REASON, finish_reason="length"), "truncated"),
        (lambda question: Reply(GOOD_REASON, finish_reason="content_filter"), "truncated"),
        (lambda question: Reply(GOOD_REASON, finish_reason="abort"), "truncated"),
    ],
)
def test_a_bad_reason_costs_no_second_question(
    ask: Taught, fake: FakeTeacher, reply: Callable[[str], Reply], rejection: Rejection
) -> None:
    fake.explain = reply
    message = rf"a-teacher at .* no reason that stands the checks \({rejection}: 4\).*another model"
    failure = ask.in_vain()
    assert re.search(message, failure)
    assert ("or --teacher-max-tokens above 1024" in failure) == (rejection == "truncated")
    assert [outcome for _, outcome in ask.decided] == [rejection] * CANDIDATES_PER_EXEMPLAR
    assert fake.predictions == []


def value_in(question: str) -> str:
    return question.split("Melting point (°C): ")[1].split("\n", maxsplit=1)[0]


@pytest.mark.parametrize(
    ("answer", "rejection"),
    [
        ("500", "re-prediction out of tolerance"),
        ("-90 °C", "re-prediction out of tolerance"),
        ("I can't say.", "no value re-predicted"),
        ("40-60", "no value re-predicted"),
        ("", "no value re-predicted"),
    ],
)
def test_a_wrong_prediction_drops_the_reason(
    ask: Taught, fake: FakeTeacher, answer: str, rejection: Rejection
) -> None:
    fake.predict = lambda question: Reply(answer)
    fake.explain = lambda question: Reply(f"{GOOD_REASON} Number {len(fake.questions)}.")
    assert f"({rejection}: 4)" in ask.in_vain()
    assert len(fake.predictions) == CANDIDATES_PER_EXEMPLAR


@pytest.mark.parametrize("finish_reason", ["length", "model_length", "error"])
def test_a_prediction_that_is_cut_off_is_none(
    ask: Taught, fake: FakeTeacher, finish_reason: str
) -> None:
    fake.predict = lambda question: Reply("50", finish_reason=finish_reason)
    assert "no value re-predicted: 4" in ask.in_vain()


@pytest.mark.parametrize(
    "answer", ["50", "50 °C", " 50.0 °C.\n", "+50", "323.15 K", "<think>Or 90?</think>**~50 °C**"]
)
def test_a_number_with_a_unit_is_a_prediction(ask: Taught, fake: FakeTeacher, answer: str) -> None:
    fake.predict = lambda question: Reply(answer)
    assert len(ask().exemplars) == 1


def test_after_a_dropped_reason_the_next_molecule_is_tried(ask: Taught, fake: FakeTeacher) -> None:
    fake.explain = lambda question: Reply("" if len(fake.questions) == 1 else GOOD_REASON)
    lessons = ask()
    assert lessons.rejections["no reason"] == 1
    assert len(lessons.exemplars) == 1
    assert len({molecule.smiles for molecule, _ in ask.decided}) == len(ask.decided)


def test_a_reason_of_several_lines_becomes_one(ask: Taught, fake: FakeTeacher) -> None:
    fake.explain = lambda question: Reply(" An alkyl chain.\n\nOne  bromine.\n")
    assert ask().exemplars[0].reason == "An alkyl chain. One bromine."


def test_what_the_teacher_thought_is_no_part_of_the_reason(ask: Taught, fake: FakeTeacher) -> None:
    # The value, too, may stand in thoughts: they are nobody's reason.
    fake.explain = lambda question: Reply(
        f"<think>\nWhy {value_in(question)} °C?\n</think>\n\nAn **alkyl** chain."
    )
    assert ask().exemplars[0].reason == "An alkyl chain."


def sorted_teacher(fake: FakeTeacher) -> None:
    """Let it explain each chain by a word of its own, and predict from the word alone."""
    words = ["tiny", "short", "small", "medium", "middling", "long", "large", "huge"]

    def explain(question: str) -> Reply:
        return Reply(f"An alkyl chain of {words[smiles_in(question).count('C') - 1]} size.")

    def predict(question: str) -> Reply:
        [index] = [index for index, word in enumerate(words) if f" {word} " in question]
        return Reply(str(10 * (index + 1)))

    fake.explain, fake.predict = explain, predict


def test_exemplars_span_the_range(ask: Taught, fake: FakeTeacher) -> None:
    sorted_teacher(fake)
    found = ask(num_exemplars=4).exemplars
    assert [int((e.molecule.value - 10) // 20) for e in found] == [2, 1, 3, 0], "the middle first"


def test_a_bounded_number_is_explained_at_once(ask: Taught, fake: FakeTeacher) -> None:
    sorted_teacher(fake)
    fake.latency_seconds = 0.1
    ask(num_exemplars=8, concurrency=3)
    assert fake.max_in_flight == 3


def test_too_few_are_returned_with_what_was_rejected(ask: Taught, fake: FakeTeacher) -> None:
    fake.predict = lambda question: Reply("10")  # right for the lower half only
    lessons = ask(num_exemplars=4)
    assert 1 <= len(lessons.exemplars) < 4
    assert lessons.rejections.keys() == {"re-prediction out of tolerance"}


def test_a_second_call_asks_nothing_and_finds_the_same(ask: Taught, fake: FakeTeacher) -> None:
    sorted_teacher(fake)
    first = ask(num_exemplars=8)
    num_asked = len(fake.questions)
    second = ask(num_exemplars=8)
    assert second.exemplars == first.exemplars
    assert second.spent == first.spent
    assert second.num_known == num_asked == len(fake.questions)
    assert max(fake.answered.values()) == 1


def test_the_budget_ends_it_with_what_was_kept_and_a_higher_one_continues(
    ask: Taught, fake: FakeTeacher
) -> None:
    sorted_teacher(fake)
    prices = {"price_in": 1000.0, "price_out": 2000.0, "max_tokens": 50, "concurrency": 1}
    lessons = ask(num_exemplars=8, max_cost=1.0, **prices)
    assert isinstance(lessons.failure, BudgetError)
    assert 0 < len(lessons.exemplars) < 8
    assert "cost 0." in lessons.spent
    whole = ask(num_exemplars=8, max_cost=200.0, **prices)
    assert whole.failure is None
    assert len(whole.exemplars) == 8
    assert all(exemplar in whole.exemplars for exemplar in lessons.exemplars)
    assert max(fake.answered.values()) == 1


def test_a_teacher_that_fails_in_the_middle_leaves_what_was_kept(
    ask: Taught, fake: FakeTeacher
) -> None:
    sorted_teacher(fake)
    answer = fake.explain
    fake.explain = lambda question: (
        Reply("no credit left", 402) if len(fake.explanations) > 2 else answer(question)
    )
    lessons = ask(num_exemplars=8, concurrency=1)
    assert isinstance(lessons.failure, ServerError)
    assert "no credit left" in str(lessons.failure)
    assert len(lessons.exemplars) == 2
    fake.explain = answer
    assert len(ask(num_exemplars=8).exemplars) == 8
    assert max(fake.answered.values()) == 1


def test_values_of_other_molecules_arent_held_against_a_reason(
    fake: FakeTeacher, tmp_path: Path
) -> None:
    """They may be test molecules: exemplars aren't chosen by what is true of those."""
    table = tmp_path / "named.csv"
    table.write_text("smiles,name,value\nCCBr,ethyl bromide,20\nc1ccc2ccccc2c1,naphthalene,80\n")
    fake.explain = lambda question: Reply(
        "A body less flat than naphthalene, which melts at 400 °C."
    )
    ask = Taught(fake, table)
    config = override(ask.config(2), {"table.name_column": "name"})
    teacher, answers = Teacher(fake.url, "a-teacher", KEY), tmp_path / "answers.jsonl"
    lessons = asyncio.run(teach(config, teacher, answers))
    assert "false claim" not in lessons.rejections


def test_a_running_server_may_take_no_key(
    ask: Taught, fake: FakeTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def connected(*arguments: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(
            connect=lambda: None,
            endpoint=Endpoint(fake.url.removesuffix("/v1"), api_key=""),
            served=SimpleNamespace(model="a-model"),
            run=asyncio.run,
        )

    monkeypatch.setattr("selfstudy_engine.engine.teacher.open_connection", connected)
    monkeypatch.setattr(
        "selfstudy_engine.engine.teacher.choose_base_model", lambda config: ("", config)
    )
    config = override(ask.config(1), {"server.url": fake.url.removesuffix("/v1")})
    assert teach_locally(config, tmp_path / "answers.jsonl", tmp_path / "log").exemplars


def test_a_bug_is_no_lesson(fake: FakeTeacher, eight: Path) -> None:
    teacher = Teacher(fake.url, "a-teacher", KEY)

    def broken(molecule: Molecule, outcome: object) -> None:
        raise ZeroDivisionError

    config = Taught(fake, eight).config(1)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(teach(config, teacher, eight.with_name("answers.jsonl"), broken))


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


def test_rejections_in_words() -> None:
    counts: Counter[Rejection] = Counter({"no reason": 1, "false claim": 3})
    assert describe_rejections(counts) == "false claim: 3, no reason: 1"
    assert describe_rejections(Counter()) == "none"
    assert is_prediction(value_question("A ring.", VANILLIN, MELTING_POINT))
