"""What a loop does when its server fails in the middle of a round: go on, or say why it can't.

Never is a failure recorded as a wrong answer, and the same command brings the run to the end that
it would have had.
"""

import gc
import shutil
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import MakeConfig, loop
from fake_http import Body
from fake_vllm import FakeVllm
from stored_samples import stored

from selfstudy_engine.data.errors import SelfStudyError, ServerError, SwapError
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.rounds import load_records

ROUTE = "/v1/completions"
Content = dict[Any, tuple[str, bool, tuple[str, ...]]]


def content_of(folder: RunFolder) -> Content:
    return {key: (s.completion, s.accepted, s.rejections) for key, s in stored(folder).items()}


@pytest.fixture(autouse=True)
def _collect() -> Iterator[None]:
    """A connection that was broken off may be collected late, in a test that can't help it."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture
def interrupted(copied: RunFolder) -> RunFolder:
    """The run as it was when round 1 began to generate; its last adapter is there already."""
    shutil.rmtree(SampleStore(copied.samples).round_folder(1))
    copied.evaluation(2).unlink()
    copied.metrics.write_bytes(copied.metrics.read_bytes().splitlines(keepends=True)[0])
    return copied


def is_sampling(body: Body) -> bool:
    return body.get("n") == 2


def is_score(body: Body) -> bool:
    return "prompt_logprobs" in body


def check_end(folder: RunFolder, expected: Content) -> None:
    assert content_of(folder) == expected
    assert [record.round for record in load_records(folder)] == [0, 1, 2]


@pytest.mark.parametrize(
    "how",
    [
        {"hang": True},
        {"trickle": 0.1},
        {"status": 500},
        {"status": 503},
        {"status": 429},
        {"cut": True},
        {"refuse": True},
    ],
    ids=lambda how: "-".join(map(str, *how.items())),
)
def test_what_passes_is_waited_for(
    finished: RunFolder,
    interrupted: RunFolder,
    small_config: MakeConfig,
    fake: FakeVllm,
    how: dict[str, Any],
) -> None:
    expected = content_of(finished)
    fake.fail_next(ROUTE, matching=is_sampling, times=2, **how)
    config = small_config(generation__request_timeout_seconds=1)
    loop(config, interrupted.path.parent, fake)
    check_end(interrupted, expected)


Edit = Callable[[Body], Body]


def with_choice(**changes: Any) -> Edit:
    def edit(answer: Body) -> Body:
        answer["choices"][0] |= changes
        return answer

    return edit


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"edit": lambda a: a | {"model": "other"}}, "as model 'other'"),
        ({"edit": lambda a: a | {"choices": []}}, "gave 0 choices"),
        ({"edit": lambda a: a | {"choices": [a["choices"][0]] * 2}}, "2 choices"),
        ({"edit": with_choice(finish_reason="abort")}, "'abort'"),
        ({"text": '{"choices": [{"text": "half'}, "isn't JSON"),
        ({"text": "<html>Sign in</html>", "content_type": "text/html"}, "isn't JSON"),
        ({"status": 401}, "failed with 401"),
        ({"status": 500, "times": 1000}, "failed with 500"),
    ],
    ids=["model", "no choice", "twice", "abort", "half", "page", "key", "lasting"],
)
def test_what_cant_be_trusted_ends_the_run_and_costs_nothing(
    finished: RunFolder,
    interrupted: RunFolder,
    small_config: MakeConfig,
    fake: FakeVllm,
    how: dict[str, Any],
    message: str,
) -> None:
    expected = content_of(finished)
    fake.fail_next(ROUTE, matching=is_sampling, **how)
    with pytest.raises(ServerError, match=message) as raised:
        loop(small_config(), interrupted.path.parent, fake)
    assert "\n" not in str(raised.value)
    kept = content_of(interrupted)
    assert kept.items() < expected.items(), "only right answers are stored, and not all"
    with FakeVllm() as repaired:
        loop(small_config(), interrupted.path.parent, repaired)
    check_end(interrupted, expected)


def _keep_the_old_adapter(fake: FakeVllm) -> None:
    fake.keeps_old_adapter = True


def _keep_the_cache(fake: FakeVllm) -> None:
    fake.cache_reset_fails = True


def _answer_nan(fake: FakeVllm) -> None:
    def edit(answer: Body) -> Body:
        for entry in answer["choices"][0]["prompt_logprobs"][1:]:
            for value in entry.values():
                value["logprob"] = float("nan")
        return answer

    fake.fail_next(ROUTE, matching=is_score, times=1000, edit=edit)


@pytest.mark.parametrize("harm", [_keep_the_old_adapter, _keep_the_cache, _answer_nan])
def test_a_swap_that_isnt_proven_yields_no_sample(
    finished: RunFolder,
    interrupted: RunFolder,
    small_config: MakeConfig,
    fake: FakeVllm,
    harm: Callable[[FakeVllm], None],
) -> None:
    expected = content_of(finished)
    harm(fake)
    with pytest.raises((SwapError, ServerError)) as raised:
        loop(small_config(), interrupted.path.parent, fake)
    assert isinstance(raised.value, SelfStudyError)
    assert not any(key[1] == 1 for key in content_of(interrupted))
    with FakeVllm() as repaired:
        loop(small_config(), interrupted.path.parent, repaired)
    check_end(interrupted, expected)
