"""What the store of a run holds."""

from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.schema import Sample
from selfstudy_engine.data.store import SampleStore, SampleWriter

Content = dict[tuple[str, int, str, int], tuple[str, bool, str]]
"""By key."""


def stored(folder: RunFolder) -> dict[tuple[str, int, str, int], Sample]:
    """All samples by key; the same key twice is an error."""
    samples = list(SampleStore(folder.samples).samples())
    by_key = {sample.key: sample for sample in samples}
    assert len(by_key) == len(samples)
    return by_key


def content_of(folder: RunFolder) -> Content:
    return {key: (s.completion, s.accepted, s.adapter_sha256) for key, s in stored(folder).items()}


def fill(store: SampleStore, *shards: list[Sample], round_index: int = 0) -> None:
    """Write each list as a shard of its own."""
    with SampleWriter(store, round_index, full_bytes=1) as writer:
        for samples in shards:
            assert writer.add(samples) == len(samples)
            writer.flush()
