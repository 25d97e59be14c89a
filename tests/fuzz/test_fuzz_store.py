"""Shards and their flaws: a cut or flipped one is set aside by name, or reads as it was written."""

import logging
from pathlib import Path

import pytest
from fuzzing import exhaustive, fuzz, mutated, written_texts
from hypothesis import strategies as st
from samples import make_rejected, make_sample, write_adapter

from selfstudy_engine.data.adapters import read_adapter
from selfstudy_engine.data.audit import audit, repair
from selfstudy_engine.data.errors import DamagedShardError
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.schema import Sample
from selfstudy_engine.data.store import SampleStore

LAST = 4096
"""Bytes at a shard's end that a cut is tried at, each of them."""


def samples_of(round_index: int, sha256: str) -> list[Sample]:
    changes = {
        "round": round_index,
        "adapter": f"round-{round_index:04d}",
        "adapter_sha256": sha256,
    }
    return [
        make_sample("A", hinted=True, findings=("boilerplate reason",), tolerance=30.0, **changes),
        make_rejected("B", findings=("no value", "no reason"), tolerance=25.0, **changes),
        *(make_sample(f"C{index}", completion=f"{index} " * 9, **changes) for index in range(9)),
    ]


class Run:
    """A run of two rounds, whose first shard a case spoils."""

    def __init__(self, path: Path) -> None:
        self.folder = RunFolder(path)
        self.samples: list[list[Sample]] = []
        for index in range(2):
            sha256 = read_adapter(write_adapter(self.folder.adapter(index))).sha256
            with SampleStore(self.folder.samples).writer(index) as writer:
                self.samples.append(samples_of(index, sha256))
                writer.add(self.samples[index])
        self.shard = SampleStore(self.folder.samples).shards(0)[0]
        self.content = self.shard.read_bytes()

    def spoil(self, content: bytes) -> SampleStore:
        for path in self.shard.parent.iterdir():
            path.unlink()
        self.shard.write_bytes(content)
        return SampleStore(self.folder.samples)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("store") / "run")


def check(run: Run, content: bytes) -> None:
    """Assert that a spoilt shard is set aside by name, or is whole, and the other is read."""
    store = run.spoil(content)
    warned: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: warned.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("selfstudy_engine.data")
    log.addHandler(handler)
    try:
        first, second = (list(store.samples(index)) for index in range(2))
    finally:
        log.removeHandler(handler)
    assert second == run.samples[1]
    aside = [path.name for path in store.set_aside()]
    if aside:
        assert first == []
        assert aside == [f"{run.shard.name}.damaged"]
        [message] = warned
        assert str(run.shard) in message
        assert message.isprintable()
        assert (run.shard.with_name(aside[0])).read_bytes() == content
    else:
        assert first == run.samples[0]
        assert warned == []


@fuzz(15, at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_or_does_nothing(run: Run, at: float, bit: int) -> None:
    content = bytearray(run.content)
    content[int(at * len(content))] ^= 1 << bit
    check(run, bytes(content))


@fuzz(15, data=st.data())
def test_a_mutated_shard_is_found(run: Run, data: st.DataObject) -> None:
    check(run, data.draw(mutated((run.content,), st.binary(min_size=1, max_size=4), most=3)))


def damage(run: Run, content: bytes) -> str | None:
    """Return what is wrong with a shard of other content; None if its samples are right."""
    run.shard.write_bytes(content)
    try:
        samples = SampleStore(run.folder.samples).load_shard(run.shard)
    except DamagedShardError as error:
        return str(error)
    assert samples == run.samples[0]
    return None


def test_a_shard_cut_at_its_end_is_found(run: Run) -> None:
    """At every byte of the last 4 KiB in the long form, at some of them in `make test`."""
    assert len(run.content) > LAST
    for missing in exhaustive("a shard cut at its end is found", LAST, short=50):
        assert damage(run, run.content[: -missing - 1])


def test_every_bit_of_a_shard_is_found_or_does_nothing(run: Run) -> None:
    harmless = 0
    bits = exhaustive("every bit of a shard", 8 * len(run.content), short=200)
    for bit in bits:
        content = bytearray(run.content)
        content[bit // 8] ^= 1 << bit % 8
        harmless += damage(run, bytes(content)) is None
    assert harmless <= len(bits) / 100  # those of the seal's own mark


@fuzz(5, short=8, at=st.floats(0, 1, exclude_max=True), cut=st.booleans())
def test_fsck_names_and_repairs_what_is_damaged(run: Run, at: float, cut: bool) -> None:
    place = int(at * len(run.content))
    content = run.content[:place]
    if not cut:
        content += bytes([run.content[place] ^ 0x10]) + run.content[place + 1 :]
    run.spoil(content)
    found = audit(run.folder)
    [problem] = found.problems
    assert (problem.kind, run.folder.path / problem.path) == ("damaged shard", run.shard)
    assert problem.detail.isprintable()
    assert found.num_samples == len(run.samples[1])
    before, after = repair(run.folder)
    assert before == found
    assert after.problems == []
    assert [path.name for path in after.set_aside] == [f"{run.shard.name}.damaged"]


texts = st.one_of(written_texts, written_texts.map(lambda text: text * 1000))
values = st.none() | st.floats(allow_nan=False)


@fuzz(7, short=8, text=texts, name=texts, value=values, hinted=st.booleans())
def test_any_sample_reads_back(
    run: Run, text: str, name: str, value: float | None, hinted: bool
) -> None:
    folder = run.folder.path.with_name("other")
    store = SampleStore(folder)
    for path in store.shards():
        path.unlink()
    fields = {
        "name": name,
        "completion": text,
        "reason": text,
        "predicted": value,
        "hinted": hinted,
    }
    sample = make_sample("A", error=value, **fields)
    with store.writer(0) as writer:
        writer.add([sample])
    assert list(store.samples()) == [sample]
