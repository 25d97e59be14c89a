"""Loops that something stops: no wrong sample is kept, and the same call goes on."""

import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeConfig, QuietReporter, loop, train_here
from fake_vllm import FakeVllm
from stored_samples import content_of, stored

from selfstudy_engine.data.errors import (
    RunFolderError,
    SelfStudyError,
    ServerError,
    StoreError,
    SwapError,
    TrainingError,
    UsageError,
)
from selfstudy_engine.data.evaluations import load_evaluation
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.loop import run_loop
from selfstudy_engine.engine.rounds import load_records
from selfstudy_engine.engine.training import Training

BATCH = 8


def test_an_interrupted_round_is_completed_with_the_same_samples(
    before_generating: RunFolder, finished: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    _, reporter = loop(small_config(), before_generating.path.parent, fake)
    assert content_of(before_generating) == content_of(finished)
    assert not [name for name in reporter.phases if "train" in name]


def test_a_failed_canary_accepts_no_sample(
    before_generating: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    fake.keeps_old_adapter = True
    before = stored(before_generating).keys()
    with pytest.raises(SwapError, match="doesn't answer from adapter round-0001"):
        loop(small_config(), before_generating.path.parent, fake)
    assert stored(before_generating).keys() == before
    assert fake.generations == []


def test_a_damaged_adapter_is_never_served(
    before_generating: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    with (before_generating.adapter(1) / "adapter_model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(SelfStudyError, match="isn't what was published"):
        loop(small_config(), before_generating.path.parent, fake)
    assert [request.path for request in fake.requests] == ["/v1/models"]


def test_an_adapter_that_is_trained_again_is_measured_again(
    before_generating: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    """Its evaluation was the damaged one's, and stayed."""
    folder = before_generating
    shutil.rmtree(folder.adapter(1))

    def train(arguments: dict[str, object], *rest: object) -> Any:  # on other molecules
        return train_here(arguments | {"before_round": 0}, *rest)

    records, _ = loop(small_config(), folder.path.parent, fake, train)
    for record in records:
        answers = load_evaluation(folder.evaluation(record.round))
        assert {answer.adapter_sha256 for answer in answers} == {record.adapter_sha256}


def test_an_evaluation_that_is_lost_is_made_again(
    copied: RunFolder, finished: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    copied.evaluation(1).write_bytes(b"damaged")
    with pytest.raises(StoreError, match=r"round-0001.parquet is damaged .* or remove it: `loop`"):
        load_evaluation(copied.evaluation(1))
    copied.evaluation(1).unlink()
    records, reporter = loop(small_config(), copied.path.parent, fake)
    assert reporter.rounds == [1]
    assert {request.body["n"] for request in fake.generations} == {1}
    assert content_of(copied) == content_of(finished)
    again = load_evaluation(copied.evaluation(1))
    assert again == load_evaluation(finished.evaluation(1))
    before, after = (load_records(folder)[1].timing for folder in (finished, copied))
    assert (after.train, after.generate) == (before.train, before.generate)
    assert (after.num_generated, after.evaluate != before.evaluate) == (BATCH, True)
    assert records == load_records(copied)
    shutil.rmtree(copied.adapter(0))
    copied.evaluation(0).unlink()  # nobody can
    num_asked = len(fake.generations)
    assert loop(small_config(), copied.path.parent, fake)[0] == records
    assert len(fake.generations) == num_asked


def test_a_server_that_fails_in_the_middle_leaves_the_samples_before(
    before_generating: RunFolder, finished: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    runs = before_generating.path.parent
    config = small_config(generation__concurrency=2)  # one request at a time; may change
    last_prompt = list(stored(finished).values())[-1].prompt
    fake.fail_next(
        "/v1/completions", status=400, matching=lambda body: body["prompt"] == last_prompt
    )
    with pytest.raises(RunFolderError, match=r"generation.temperature"):
        loop(small_config(generation__temperature=0.1), runs, fake)
    with pytest.raises(ServerError, match="failed on command"):
        loop(config, runs, fake)
    kept = content_of(before_generating)
    assert BATCH <= len(kept) < 2 * BATCH
    loop(small_config(), runs, fake)
    assert content_of(before_generating) == content_of(finished)


def test_an_answer_of_another_model_accepts_nothing_of_it(
    before_generating: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    fake.fail_next(
        "/v1/completions",
        times=100,
        edit=lambda answer: answer | {"model": "other"},
        matching=lambda body: body.get("n") == 2,
    )
    before = stored(before_generating).keys()
    with pytest.raises(ServerError, match="as model 'other'"):
        loop(small_config(), before_generating.path.parent, fake)
    assert stored(before_generating).keys() == before


def test_a_server_that_isnt_there_is_named(
    before_generating: RunFolder, small_config: MakeConfig
) -> None:
    config = small_config(server__url="http://127.0.0.1:1")
    with pytest.raises(ServerError, match=r"no vLLM server answers at http://127.0.0.1:1 "):
        run_loop(config, before_generating.path.parent, QuietReporter(), "key")


@pytest.mark.parametrize("overlap", [False, True])
def test_servers_that_cant_be_asked_are_named_before_anything_is_trained(
    tmp_path: Path, small_config: MakeConfig, fake: FakeVllm, overlap: bool
) -> None:
    missing = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    begun: list[object] = []

    def train(*call: object) -> AbstractContextManager[Training]:
        begun.append(call)
        raise TrainingError("begun")

    def start(*urls: str) -> None:
        config = small_config(server__url=list(urls), overlap=overlap)
        run_loop(config, tmp_path, QuietReporter(), fake.api_key, start_training=train)

    with pytest.raises(ServerError, match=f"no vLLM server answers at {missing[0]} "):
        start(*missing)
    with FakeVllm(model="other") as other, pytest.raises(UsageError, match="different models"):
        start(missing[0], fake.url, other.url)
    assert not begun
    with pytest.raises(TrainingError, match="begun"):
        start(missing[0], fake.url)


def test_samples_that_are_asked_again_are_counted_anew(
    copied: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    """As those before may have been other ones."""
    [shard] = SampleStore(copied.samples).shards(0)
    shard.write_bytes(b"damaged")
    before = load_records(copied)
    records, reporter = loop(small_config(), copied.path.parent, fake)
    assert 0 in reporter.rounds
    lengths = [s.num_output_tokens for s in SampleStore(copied.samples).samples(0)]
    assert records[0].timing.num_generated == len(lengths) == before[0].num_completions
