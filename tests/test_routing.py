"""Which server a prompt goes to."""

from collections import Counter
from dataclasses import dataclass

import pytest

from selfstudy_engine.engine.routing import PREFIX_CHARACTERS, SLACK, choose


@dataclass
class Busy:
    url: str
    in_flight: int = 0
    concurrency: int = 64


def servers(*in_flight: int) -> list[Busy]:
    return [Busy(f"http://{index}", number) for index, number in enumerate(in_flight)]


def fill(targets: list[Busy], prompts: list[str]) -> list[str]:
    """Send prompts that stay in flight."""
    gone = []
    for prompt in prompts:
        target = choose(prompt, 1, targets)
        target.in_flight += 1
        gone.append(target.url)
    return gone


def test_one_server_gets_everything() -> None:
    [only] = servers(10**6)
    assert choose("prompt", 4, [only]) is only


def test_a_beginning_stays_where_it_is_cached() -> None:
    """Whatever comes after it, and in whatever order servers are listed."""
    targets = servers(8, 8, 8, 8)
    beginning = "x" * PREFIX_CHARACTERS
    chosen = {choose(beginning + end, 1, targets).url for end in ("", "a", "b" * 100)}
    assert chosen == {choose(beginning, 1, targets[::-1]).url}
    others = {choose(f"{number}" * PREFIX_CHARACTERS, 1, targets).url for number in range(99)}
    assert len(others) == 4, "other beginnings go elsewhere"


def test_most_beginnings_stay_when_a_server_goes() -> None:
    targets = servers(8, 8, 8, 8)
    prompts = [f"molecule {number}" for number in range(200)]
    before = {prompt: choose(prompt, 1, targets).url for prompt in prompts}
    left = [target for target in targets if target.url != "http://2"]
    moved = [p for p in prompts if choose(p, 1, left).url != before[p]]
    assert moved == [p for p in prompts if before[p] == "http://2"]


@pytest.mark.parametrize("num_prompts", [4, 40, 400])
def test_prompts_that_all_begin_alike_are_shared_out(num_prompts: int) -> None:
    targets = servers(0, 0, 0, 0)
    gone = Counter(fill(targets, ["x" * PREFIX_CHARACTERS] * num_prompts))
    fair = num_prompts / 4
    assert max(gone.values()) <= SLACK * fair + 1
    assert len(gone) == 4


def test_a_server_that_takes_more_gets_more() -> None:
    targets = servers(0, 0)
    targets[0].concurrency = 192
    gone = Counter(fill(targets, [f"molecule {number}" for number in range(128)]))
    assert 2 < gone["http://0"] / gone["http://1"] < 4


def test_a_busy_server_is_left_alone() -> None:
    targets = servers(60, 0)
    assert {choose(f"prompt {number}", 2, targets).url for number in range(50)} == {"http://1"}


def test_a_request_larger_than_any_share_goes_to_the_least_loaded() -> None:
    assert choose("prompt", 500, servers(3, 1, 2)).url == "http://1"
