"""How long it takes to judge a whole store anew, on one core, and how much memory.

The store is made up, of answers about the embedded table's molecules; it is written through the
store's own writer, 2,000 samples at a time: a second at the 2,000/s that the client must reach.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.embedded import embedded_table
from selfstudy_engine.data.privacy import child_environment
from selfstudy_engine.data.prompts import render_answer, render_prompt
from selfstudy_engine.data.properties import Property, find_property
from selfstudy_engine.data.schema import Completion, Molecule, Sample
from selfstudy_engine.data.scratch import scratch_folder
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.one_core import children_on, module_command, peak_resident_mb
from selfstudy_engine.engine.rescore import rescore
from selfstudy_engine.engine.verify import Rules, judge

_SAMPLES_PER_FLUSH = 2_000
_SAMPLES_PER_ROUND = 100_000
_TOLERANCE = 20.0
"""Another one than the samples were made with, so that verdicts change."""
_PARTS = (
    "One benzene ring holds the molecule flat",
    "A hydroxyl group and an aldehyde form hydrogen bonds",
    "The long alkyl chain is flexible and packs badly",
    "A carboxylic acid pairs up in the crystal",
    "Chlorine atoms add weight and polarity",
    "The molecule is small and symmetric",
)


def measure_rescore(num_samples: int) -> dict[str, Any]:
    """Make a store in a temporary folder, re-score it in a child on one core, and return figures.

    Returns:
        num_samples, shard and verdict counts, seconds, seconds_per_million and peak_rss_mb.
    """
    with scratch_folder() as folder:
        _fill(SampleStore(folder / "samples"), num_samples)
        with children_on(min(os.sched_getaffinity(0))):
            command = module_command("bench_rescore", str(folder / "samples"))
            result = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, env=child_environment()
            )
    figures: dict[str, Any] = orjson.loads(result.stdout)
    return figures


def _fill(store: SampleStore, num_samples: int) -> None:
    prop = find_property("melting_point")
    molecules = embedded_table().molecules
    made = 0
    for round_index in range(-(-num_samples // _SAMPLES_PER_ROUND)):
        with store.writer(round_index) as writer:
            end = min(num_samples, made + _SAMPLES_PER_ROUND)
            while made < end:
                size = min(_SAMPLES_PER_FLUSH, end - made)
                writer.add(make_samples(molecules, prop, round_index, made, size))
                writer.flush()
                made += size


def make_samples(
    molecules: list[Molecule], prop: Property, round_index: int, first: int, size: int
) -> Iterator[Sample]:
    """Yield made-up samples number `first` to `first + size`; 1 in 16 has no value or no end."""
    # Not for the child whose memory is measured.
    from selfstudy_engine.engine.accepted_texts import AcceptedTexts
    from selfstudy_engine.engine.canary import Served
    from selfstudy_engine.engine.sampling import Answered, SampleQuestion, to_samples

    served = Served(model="", adapter="round-0001", adapter_sha256="f" * 64)
    config = RunConfig(property=prop)
    rules = Rules.of(config)
    for number in range(first, first + size):
        generator = random.Random(number)
        index, molecule_number = divmod(number, len(molecules))
        molecule = molecules[molecule_number]
        reason = ", ".join(generator.sample(_PARTS, 2)) + "."
        text = render_answer(reason, molecule.value + generator.gauss(0, 50), prop)
        flaw = generator.randrange(32)
        text = {0: text[: len(text) // 2], 1: text + "-ish"}.get(flaw, text)
        completion = Completion(text, "length" if flaw == 0 else "stop", 40, 40)
        judged = judge(completion.text, completion.finish_reason, molecule, rules)
        question = SampleQuestion(molecule, render_prompt(molecule, prop))
        [sample] = to_samples(
            Answered(question, [completion], arrived_at=1.7e9 + number),
            [judged],
            rules,
            AcceptedTexts(config.verdict.similarity),
            run="bench",
            round_index=round_index,
            served=served,
        )
        yield sample._replace(sample_index=index)


def run_rescore(folder: Path) -> dict[str, Any]:
    """Re-score a store in this process, and say what it took."""
    store = SampleStore(folder)
    started = time.perf_counter()
    result = rescore(store, RunConfig(), tolerance=_TOLERANCE)
    seconds = time.perf_counter() - started
    return {
        "num_samples": result.num_samples,
        "num_shards": len(store.shards()),
        "num_changed": result.num_changed,
        "seconds": round(seconds, 3),
        "seconds_per_million": round(seconds / result.num_samples * 1e6, 2),
        "peak_rss_mb": round(peak_resident_mb(), 1),
    }


if __name__ == "__main__":
    sys.stdout.buffer.write(orjson.dumps(run_rescore(Path(sys.argv[1]))))
