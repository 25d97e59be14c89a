"""The teacher's client against a fake endpoint: retries, costs, and nothing paid twice."""

import asyncio
import errno
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_teacher import KEY, FakeTeacher, Reply, num_prompt_tokens

from selfstudy_engine.data.config_sources import TeacherConfig
from selfstudy_engine.data.errors import BudgetError, ServerError, UsageError
from selfstudy_engine.engine import teacher_client
from selfstudy_engine.engine.teacher_budget import Budget, most_prompt_tokens
from selfstudy_engine.engine.teacher_cache import AnswerCache, TeacherAnswer
from selfstudy_engine.engine.teacher_client import Teacher, TeacherClient

PRICES: dict[str, Any] = {"price_in": 1000.0, "price_out": 2000.0, "max_tokens": 50}


@pytest.fixture
def fake() -> Iterator[FakeTeacher]:
    with FakeTeacher() as server:
        yield server


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


class Asked:
    """What came of some questions: answers or errors in their order, and the client."""

    def __init__(self, outcomes: list[Any], client: TeacherClient) -> None:
        self.outcomes = outcomes
        self.client = client

    @property
    def texts(self) -> list[str]:
        return [outcome.text for outcome in self.outcomes]


def ask(
    url: str, answers: Path, *questions: str, one_by_one: bool = False, **settings: Any
) -> Asked:
    async def story() -> Asked:
        with AnswerCache(answers) as cache:
            teacher = Teacher(url, "a-teacher", KEY)
            async with TeacherClient(teacher, TeacherConfig(**settings), cache) as client:
                if one_by_one:
                    found = [
                        (await asyncio.gather(client.ask(question), return_exceptions=True))[0]
                        for question in questions
                    ]
                else:
                    asked = (client.ask(question) for question in questions)
                    found = await asyncio.gather(*asked, return_exceptions=True)
        return Asked(found, client)

    return asyncio.run(story())


def test_an_answer_comes_with_its_tokens(fake: FakeTeacher, answers: Path) -> None:
    [answer] = ask(fake.url, answers, "Why is it so?").outcomes
    assert (answer.text, answer.finish_reason) == (Reply().text, "stop")
    assert (answer.num_prompt_tokens, answer.num_output_tokens) == (3, 20)
    assert fake.keys == {f"Bearer {KEY}"}


def test_what_is_sent(fake: FakeTeacher, answers: Path) -> None:
    ask(fake.url, answers, "Why?")
    ask(fake.url, answers, "Why?", temperature=0.5, max_tokens=99)
    plain = {"model": "a-teacher", "messages": [{"role": "user", "content": "Why?"}]}
    assert fake.bodies == [
        plain | {"max_tokens": 1024},
        plain | {"max_tokens": 99, "temperature": 0.5},
    ]


def test_a_server_that_knows_the_new_limit_alone_is_sent_that_from_then_on(
    fake: FakeTeacher, answers: Path
) -> None:
    refusal = Reply("'max_tokens' isn't supported. Use 'max_completion_tokens'.", 400)
    fake.script = [refusal]
    asked = ask(fake.url, answers, "one", "two", one_by_one=True)
    assert asked.texts == [Reply().text] * 2
    limits = [body.keys() - {"model", "messages"} for body in fake.bodies]
    assert limits == [{"max_tokens"}, {"max_completion_tokens"}, {"max_completion_tokens"}]
    assert asked.client.budget.num_calls == 2
    assert ask(fake.url, answers, "two").client.num_known == 1, "another name, the same question"
    fake.script = [refusal] * 3
    assert ask(fake.url, answers, "three", "four", "five").texts == [Reply().text] * 3


def test_a_server_that_refuses_both_limits_is_told_as_it_is(
    fake: FakeTeacher, answers: Path
) -> None:
    fake.explain = lambda question: Reply("max_completion_tokens may be 100 at most", 400)
    [error] = ask(fake.url, answers, "one").outcomes
    assert "may be 100 at most" in str(error)
    assert len(fake.bodies) == 2


def test_nothing_is_asked_twice(fake: FakeTeacher, answers: Path) -> None:
    fake.latency_seconds = 0.05
    first = ask(fake.url, answers, "one", "two", "one", "one")
    again = ask(fake.url, answers, "two", "one", "three")
    assert fake.answered == {"one": 1, "two": 1, "three": 1}
    assert first.client.num_known == again.client.num_known == 2
    assert again.texts == [Reply().text] * 3
    assert again.client.budget.num_calls == 3


def test_another_endpoint_or_setting_is_another_question(fake: FakeTeacher, answers: Path) -> None:
    ask(fake.url, answers, "one")
    ask(fake.url + "/", answers, "one")  # the same
    assert len(fake.questions) == 1
    ask(fake.url, answers, "one", temperature=1.0)
    assert len(fake.questions) == 2
    with FakeTeacher() as other:
        ask(other.url, answers, "one")
        assert len(other.questions) == 1


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_a_passing_status_is_asked_again(fake: FakeTeacher, answers: Path, status: int) -> None:
    fake.script = [Reply("wait", status)] * 2
    asked = ask(fake.url, answers, "one")
    assert asked.texts == [Reply().text]
    assert len(fake.questions) == 3
    assert asked.client.budget.num_calls == 1  # a refusal costs nothing


def test_retry_after_is_honoured(fake: FakeTeacher, answers: Path) -> None:
    fake.script = [Reply("slow down", 429, retry_after="1")]
    started = time.monotonic()
    ask(fake.url, answers, "one")
    assert time.monotonic() - started >= 1  # its own first pause is at most 0.5 s


def test_retries_are_bounded(fake: FakeTeacher, answers: Path) -> None:
    fake.script = [Reply("quota is used up", 429)] * 100
    [error] = ask(fake.url, answers, "one").outcomes
    assert isinstance(error, ServerError)
    assert "a-teacher" in str(error)
    assert fake.url in str(error)
    assert "status 429" in str(error)
    assert "quota is used up" in str(error)
    assert len(fake.questions) == 6


@pytest.mark.parametrize(
    ("reply", "lost"),
    [
        (Reply(hang=True), 1),
        (Reply(refuse=True), 1),
        (Reply(cut=True), 1),
        (Reply(body='{"choices": [{"mess'), 1),
        (Reply(body='{"error": {"message": "busy"}}'), 1),
        (Reply(body='{"choices": [{"message": {"content": 5}}]}'), 1),
        (Reply(body='{"choices": null}'), 1),
        (Reply(body="<html>"), 1),
        (Reply(body="[]"), 1),
        (Reply(body='{"choices": [{"message": {"content": [5]}}]}'), 1),
        (Reply("busy", 500), 0),
    ],
    ids=lambda value: str(value.body or value)[:40] if isinstance(value, Reply) else "",
)
def test_an_unusable_answer_is_asked_again_and_may_have_cost(
    fake: FakeTeacher, answers: Path, reply: Reply, lost: int
) -> None:
    fake.script = [reply]
    patience = 2 if reply.hang else 60  # a busy machine takes long to answer
    asked = ask(fake.url, answers, "one", timeout_seconds=patience, **PRICES)
    assert asked.texts == [Reply().text]
    assert len(fake.questions) == 2
    budget = asked.client.budget
    assert budget.num_prompt_tokens == num_prompt_tokens("one") + lost * most_prompt_tokens("one")
    assert budget.num_output_tokens == 20 + lost * 50
    again = ask(fake.url, answers, "one", **PRICES)  # and so it is remembered
    assert again.client.budget.cost == budget.cost
    assert len(fake.questions) == 2


def interrupt(fake: FakeTeacher, cache: AnswerCache) -> None:
    """Ask something that isn't answered, and be cancelled meanwhile."""

    async def story() -> None:
        teacher, settings = Teacher(fake.url, "a-teacher", KEY), TeacherConfig(**PRICES)
        async with TeacherClient(teacher, settings, cache) as client:
            asking = asyncio.create_task(client.ask("one"))
            while not fake.num_hanging:
                await asyncio.sleep(0.01)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    fake.script = [Reply(hang=True)]
    asyncio.run(asyncio.wait_for(story(), 30))


def test_a_call_that_is_interrupted_may_have_cost(fake: FakeTeacher, answers: Path) -> None:
    with AnswerCache(answers) as cache:
        interrupt(fake, cache)
    asked = ask(fake.url, answers, "one", **PRICES)
    assert asked.texts == [Reply().text]
    budget = asked.client.budget
    assert budget.num_prompt_tokens == num_prompt_tokens("one") + most_prompt_tokens("one")
    assert budget.num_output_tokens == 20 + 50


def test_an_interrupted_call_ends_though_it_cant_be_written_down(
    fake: FakeTeacher, answers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(answer: TeacherAnswer) -> None:
        raise OSError(errno.ENOSPC, "full")

    with AnswerCache(answers) as cache:
        monkeypatch.setattr(cache, "add", full)
        interrupt(fake, cache)


@pytest.mark.parametrize(
    "body",
    [
        '{"choices": []}',
        '{"choices": [{"message": {"content": null}}]}',
        '{"choices": [{"message": {}, "finish_reason": "content_filter"}]}',
        '{"choices": [{}]}',
    ],
)
def test_an_answer_without_a_text_is_an_empty_one(
    fake: FakeTeacher, answers: Path, body: str
) -> None:
    """It was paid for: asking again would pay again, for the same."""
    fake.script = [Reply(body=body)]
    assert ask(fake.url, answers, "one").texts == [""]
    assert ask(fake.url, answers, "one").texts == [""]
    assert len(fake.questions) == 1


@pytest.mark.parametrize("finish_reason", ["abort", "error", "insufficient_system_resource"])
def test_an_answer_that_the_server_gave_up_is_paid_for_and_not_used_again(
    fake: FakeTeacher, answers: Path, finish_reason: str
) -> None:
    fake.script = [Reply("An alk", finish_reason=finish_reason)]
    assert ask(fake.url, answers, "one").texts == ["An alk"]
    asked = ask(fake.url, answers, "one", "one")
    assert asked.texts == [Reply().text] * 2
    assert len(fake.questions) == asked.client.budget.num_calls == 2


@pytest.mark.parametrize(
    ("status", "remedy"), [(400, ""), (401, "check its key"), (404, "--teacher-url, which mostly")]
)
def test_a_refusal_is_final_and_stops_everything(
    fake: FakeTeacher, answers: Path, status: int, remedy: str
) -> None:
    fake.script = [Reply("no such account", status)]
    outcomes = ask(fake.url, answers, "one", "two", "three", one_by_one=True).outcomes
    assert len(fake.questions) == 1
    assert len({str(error) for error in outcomes}) == 1
    assert f"status {status}" in str(outcomes[0])
    assert remedy in str(outcomes[0])
    assert "the same command continues" in str(outcomes[0])


def test_after_a_failure_known_answers_still_come_and_those_in_flight_are_kept(
    fake: FakeTeacher, answers: Path
) -> None:
    ask(fake.url, answers, "known")
    fake.latency_seconds = 0.2
    fake.script = [Reply("no", 400)]
    asked = ask(fake.url, answers, "one", "two")
    kinds = sorted(type(outcome).__name__ for outcome in asked.outcomes)
    assert kinds == ["ServerError", "TeacherAnswer"]
    fake.script = [Reply("no", 400)]
    asked = ask(fake.url, answers, "three", "four", "known", one_by_one=True)
    kinds = [type(outcome).__name__ for outcome in asked.outcomes]
    assert kinds == ["ServerError", "ServerError", "TeacherAnswer"]
    again = ask(fake.url, answers, "one", "two", "three", "four", "known")
    assert again.client.num_known == 2
    assert set(fake.answered.values()) == {1}


def test_nobody_there_costs_nothing(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_client, "backoff_seconds", lambda retry: 0.01)
    with FakeTeacher() as gone:
        url = gone.url
    asked = ask(url, answers, "one", "two", **PRICES)
    assert all(isinstance(error, ServerError) for error in asked.outcomes)
    assert asked.client.budget.cost == 0


def test_the_key_is_in_no_file_log_or_message(
    fake: FakeTeacher, answers: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fake.script = [Reply(f"slow down, {KEY}", 429), Reply(f"wrong key: {KEY}", 401)]
    asked = ask(fake.url, answers, "one")
    ask(fake.url, answers, "two")
    assert "wrong key: ***" in str(asked.outcomes[0])
    assert KEY not in caplog.text
    assert KEY not in answers.read_text("utf-8")
    assert KEY not in repr(asked.client.teacher)


def test_a_key_is_needed() -> None:
    with pytest.raises(UsageError, match="set OPENAI_API_KEY"):
        Teacher("https://a/v1", "m", "")


def price_of(*questions: str) -> float:
    """The most that the questions can cost, in the prices above."""
    return sum(most_prompt_tokens(question) * 1000 + 50 * 2000 for question in questions) / 1e6


def charged(fake: FakeTeacher) -> float:
    return (fake.num_prompt_tokens * 1000 + fake.num_output_tokens * 2000) / 1e6


@pytest.mark.parametrize("one_by_one", [True, False])
def test_it_stops_before_the_call_that_could_exceed_the_budget(
    fake: FakeTeacher, answers: Path, one_by_one: bool
) -> None:
    questions = [f"question {number}" for number in range(40)]
    asked = ask(fake.url, answers, *questions, max_cost=0.5, one_by_one=one_by_one, **PRICES)
    errors = [outcome for outcome in asked.outcomes if isinstance(outcome, Exception)]
    assert errors
    assert all(isinstance(error, BudgetError) for error in errors)
    assert asked.client.budget.cost == pytest.approx(charged(fake))
    # One more could have been too much, and no sooner did it stop.
    assert 0.5 - price_of("question 99") < charged(fake) <= 0.5
    assert "of --max-cost 0.5 is spent; a higher --max-cost continues" in str(errors[0])


def test_a_higher_budget_continues_and_pays_nothing_again(fake: FakeTeacher, answers: Path) -> None:
    questions = [f"question {number}" for number in range(20)]
    ask(fake.url, answers, *questions, max_cost=0.5, **PRICES)
    num_before = len(fake.questions)
    assert num_before < 20
    ask(fake.url, answers, *questions, max_cost=0.5, **PRICES)
    assert len(fake.questions) == num_before, "earlier calls count"
    asked = ask(fake.url, answers, *questions, max_cost=50, **PRICES)
    assert asked.texts == [Reply().text] * 20
    assert max(fake.answered.values()) == 1
    assert asked.client.budget.cost == pytest.approx(charged(fake))


def test_a_call_too_dear_is_never_made(fake: FakeTeacher, answers: Path) -> None:
    question = "a long question " * 50
    asked = ask(fake.url, answers, question, max_cost=price_of(question) - 0.001, **PRICES)
    assert isinstance(asked.outcomes[0], BudgetError)
    assert fake.questions == []
    asked = ask(fake.url, answers, question, max_cost=price_of(question), **PRICES)
    assert asked.texts == [Reply().text]


def test_a_server_that_goes_beyond_the_limit_is_reckoned_with(
    fake: FakeTeacher, answers: Path
) -> None:
    fake.script = [Reply(num_output_tokens=200)]
    asked = ask(fake.url, answers, "one", "two", one_by_one=True, max_cost=0.8, **PRICES)
    assert isinstance(asked.outcomes[1], BudgetError)
    assert len(fake.questions) == 1


def test_a_question_that_waits_reckons_with_what_came_meanwhile(
    fake: FakeTeacher, answers: Path
) -> None:
    fake.latency_seconds = 0.1
    fake.script = [Reply(num_output_tokens=60)]  # of 50 allowed
    asked = ask(fake.url, answers, "one", "two", max_cost=0.3, **PRICES)
    assert isinstance(asked.outcomes[1], BudgetError)
    assert len(fake.questions) == 1


def test_without_usage_the_most_is_counted(fake: FakeTeacher, answers: Path) -> None:
    fake.script = [Reply(usage=False)]
    budget = ask(fake.url, answers, "one", **PRICES).client.budget
    assert budget.cost == pytest.approx(price_of("one"))


@pytest.mark.parametrize(
    "usage",
    [
        '{"prompt_tokens": 5, "total_tokens": 70}',
        '{"prompt_tokens": 5, "completion_tokens": null}',
        '{"prompt_tokens": -1, "completion_tokens": 0}',
        "[]",
        "null",
    ],
)
def test_with_a_usage_that_is_none_the_most_is_counted_and_the_answer_is_used(
    fake: FakeTeacher, answers: Path, usage: str
) -> None:
    choices = '[{"message": {"content": "A ring."}, "finish_reason": "stop"}]'
    fake.script = [Reply(body=f'{{"choices": {choices}, "usage": {usage}}}')]
    asked = ask(fake.url, answers, "one", **PRICES)
    assert asked.texts == ["A ring."]
    assert len(fake.questions) == 1
    assert asked.client.budget.cost == pytest.approx(price_of("one"))


def test_a_content_of_parts_is_the_text_of_them(fake: FakeTeacher, answers: Path) -> None:
    parts = (
        '[{"type": "thinking", "text": null}, {"type": "note", "text": "x"}, '
        '{"type": "text", "text": "A "}, {"type": "text", "text": "ring."}]'
    )
    fake.script = [Reply(body=f'{{"choices": [{{"message": {{"content": {parts}}}}}]}}')]
    assert ask(fake.url, answers, "one").texts == ["A ring."]


def test_cost_in_words() -> None:
    answer = TeacherAnswer("k", "u", "m", "q", "t", "stop", 1000, 500)
    assert Budget(TeacherConfig(), [answer]).describe() == (
        "1 calls, 1,000 prompt tokens, 500 output tokens, unknown cost "
        "(no --price-in and --price-out)"
    )
    priced = Budget(TeacherConfig(price_in=2, price_out=8), [answer, answer])
    assert priced.cost == pytest.approx(0.012)
    assert priced.describe().endswith("1,000 output tokens, cost 0.012")
    assert Budget(TeacherConfig()).cost is None
