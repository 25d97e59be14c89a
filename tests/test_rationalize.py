"""Hinted samples: who is shown its value, what is asked, and that nothing counts or comes twice."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeConfig, loop
from fake_vllm import TOKENS_PER_COMPLETION, FakeVllm
from samples import SHIPPED, make_pool, make_sample
from stored_samples import stored
from waiting import wait_for

from selfstudy_engine.cli.console import round_line
from selfstudy_engine.data.config import RunConfig, load_config
from selfstudy_engine.data.errors import ServerError, UsageError
from selfstudy_engine.data.prompts import Template, render_hinted_prompt, render_prompt
from selfstudy_engine.data.properties import find_property
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.schema import Completion, Molecule
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.client import GenerationClient
from selfstudy_engine.engine.rationalize import choose_hinted, rationalize, warn_if_idle
from selfstudy_engine.engine.rescore import rescore
from selfstudy_engine.engine.rounds import load_records
from selfstudy_engine.engine.sampler import Tally, tally_round
from selfstudy_engine.engine.sampling import SampleQuestion
from selfstudy_engine.engine.server_client import ServerClient
from selfstudy_engine.engine.verify import Rules, judge

MELTING_POINT = find_property("melting_point")
VANILLIN = Molecule("MWOOGOJBHIARFG-UHFFFAOYSA-N", "vanillin", "COc1cc(C=O)ccc1O", 82.0)
FAILED_TWICE = Tally(2, 4, 0)


def config_of(**values: Any) -> RunConfig:
    """Rounds of 20 molecules, 4 of which may be hinted."""
    defaults = {"generation.batch": 40, "rationalize.enabled": True, "rationalize.fraction": 0.2}
    changed = {key.replace("__", "."): value for key, value in values.items()}
    return load_config(None, defaults | changed)


def chosen(
    tallies: dict[int, Tally],
    hinted: dict[int, Tally] | None = None,
    begun: dict[int, bool] | None = None,
    round_index: int = 2,
    **values: Any,
) -> list[int]:
    """Return the numbers of the molecules of a pool of 50 that are shown their value."""
    pool = make_pool(50)

    def named(by_number: dict[int, Any] | None) -> dict[str, Any]:
        return {pool[number].molecule_id: value for number, value in (by_number or {}).items()}

    found = choose_hinted(
        pool,
        named(tallies),
        named(hinted),
        named(begun),
        round_index=round_index,
        config=config_of(**values),
    )
    return [int(molecule.value) for molecule in found]


def test_who_keeps_failing_is_shown_its_value() -> None:
    tallies = {
        1: FAILED_TWICE,
        2: Tally(1, 2, 0),  # once only
        3: Tally(3, 6, 1),  # accepted
        4: FAILED_TWICE,
        5: Tally(3, 6, 0),
    }
    hinted = {4: Tally(1, 2, 1)}  # explained already
    assert set(chosen(tallies, hinted)) == {1, 2, 5}
    assert chosen(tallies, hinted, rationalize__after_rounds=2) == [5, 1]
    assert chosen(tallies, hinted, rationalize__after_rounds=3) == [5]
    assert chosen({}) == []


def test_no_more_than_the_share_and_each_in_its_turn() -> None:
    tallies = dict.fromkeys(range(10), FAILED_TWICE)
    assert len(chosen(tallies)) == 4
    assert len(chosen(tallies, rationalize__fraction=0.1)) == 2
    assert len(chosen(tallies, rationalize__fraction=0.99)) == 10
    hinted = {number: Tally(1, 2, 0) for number in range(8)}
    assert set(chosen(tallies, hinted)) > {8, 9}


def test_the_choice_is_repeatable_by_seed_and_round() -> None:
    tallies = dict.fromkeys(range(50), FAILED_TWICE)
    assert chosen(tallies) == chosen(tallies)
    assert chosen(tallies) != chosen(tallies, seed=1)
    assert chosen(tallies) != chosen(tallies, round_index=3)


def test_what_was_begun_stays_what_it_is() -> None:
    tallies = dict.fromkeys(range(10), FAILED_TWICE)
    whole = chosen(tallies)
    assert set(chosen(tallies, begun={whole[2]: True})) == set(whole)
    ordinary = chosen(tallies, begun={whole[0]: False})
    assert whole[0] not in ordinary
    assert len(ordinary) == 4
    full = {number: number < 3 for number in range(20)}  # 3 hinted, 17 ordinary: a round
    assert chosen(tallies, begun=full) == [0, 1, 2]
    late = dict.fromkeys(range(6), True)  # more than the share: of another configuration
    assert chosen(tallies, begun=late) == list(range(6))


@pytest.mark.parametrize(
    ("pool", "values", "first"),
    [
        (1000, {}, 1),
        (1000, {"rationalize__after_rounds": 2}, 51),
        (1000, {"rationalize__after_rounds": 2, "sampler__strategy": "original"}, 2),
        (10, {"rationalize__after_rounds": 2}, 2),
        (30, {"rationalize__after_rounds": 3}, 4),
    ],
)
def test_a_run_too_short_is_told_so(
    pool: int, values: dict[str, Any], first: int, caplog: pytest.LogCaptureFixture
) -> None:
    warn_if_idle(pool, config_of(rounds=first, **values))
    assert f"does nothing before round {first}, and the run has {first}" in caplog.text
    assert "--rationalize-after" in caplog.text
    caplog.clear()
    warn_if_idle(pool, config_of(rounds=first + 1, **values))
    assert caplog.text == ""


def test_a_share_below_one_molecule_is_refused() -> None:
    with pytest.raises(UsageError, match=r"fraction \(0.1\) of a batch of 8 .* give 0.25 or more"):
        load_config(None, {"rationalize.enabled": True, "generation.batch": 8})
    load_config(None, {"generation.batch": 8})


@pytest.mark.parametrize(
    ("template", "hint"),
    [
        ("named", "Name: vanillin\nSMILES: COc1cc(C=O)ccc1O\nMelting point (°C): 082\nReason:"),
        ("smiles", "SMILES: COc1cc(C=O)ccc1O\nMelting point (°C): 082\nReason:"),
        (
            "original",
            "#Problem\n##Name: vanillin\n##SMILES: COc1cc(C=O)ccc1O\n##Prediction: 82\n##Reason:",
        ),
    ],
)
def test_a_hint_stands_before_the_reason(template: Template, hint: str) -> None:
    assert render_hinted_prompt(VANILLIN, MELTING_POINT, (), template) == hint
    [exemplar] = SHIPPED[1:2]
    shown = render_hinted_prompt(VANILLIN, MELTING_POINT, [exemplar], template)
    assert shown.endswith(f"Reason: {exemplar.reason}\n\n{hint}")
    assert shown.count("82") == 1


def ask(
    fake: FakeVllm, molecules: list[Molecule], **values: Any
) -> list[tuple[SampleQuestion, list[Completion]]]:
    async def story() -> list[tuple[SampleQuestion, list[Completion]]]:
        async with GenerationClient([ServerClient(fake.endpoint, 8, 20)]) as client:
            found = rationalize(client, fake.model, molecules, config_of(**values), SHIPPED)
            return [pair async for pair in found]

    return asyncio.run(story())


def test_the_reason_sees_the_value_and_the_value_only_the_reason(fake: FakeVllm) -> None:
    [(question, completions)] = ask(fake, [VANILLIN])
    ordinary = render_prompt(VANILLIN, MELTING_POINT, (), "facts")
    assert (question.molecule, question.prompt, question.hinted) == (VANILLIN, ordinary, True)
    hint, *values = [request.body for request in fake.generations]
    assert hint["prompt"] == render_hinted_prompt(VANILLIN, MELTING_POINT, (), "facts")
    assert (hint["n"], hint["temperature"], hint["stop"]) == (2, 0.7, ["\n"])
    assert len(values) == len(completions) == 2
    for body in values:
        assert (body["n"], body["temperature"]) == (1, 0)
        assert not re.search(r"Melting point \(°C\): [-\d]", body["prompt"])
    for completion in completions:
        said, value = completion.text.rsplit(" ", 1)
        assert f"{ordinary}{said}" in {body["prompt"] for body in values}
        assert said.endswith("\nMelting point (°C):")
        assert value.isdigit()
        assert completion.finish_reason == "stop"
        assert completion.num_output_tokens == 2 * TOKENS_PER_COMPLETION


def test_a_hinted_prompt_may_show_exemplars(fake: FakeVllm) -> None:
    ask(fake, [VANILLIN], rationalize__prompt_exemplars=2, generation__prompt_exemplars=1)
    hint, value, _ = [request.body["prompt"] for request in fake.generations]
    assert (hint.count("Reason:"), value.count("Reason:")) == (3, 2)


def test_a_value_in_the_reason_is_masked_before_it_is_predicted_again(fake: FakeVllm) -> None:
    def tell(answer: dict[str, Any]) -> dict[str, Any]:
        for choice in answer["choices"]:
            choice["text"] = " Flat and polar, hence near 80 °C."
        return answer

    fake.fail_next("/v1/completions", edit=tell)
    [(question, completions)] = ask(fake, [VANILLIN])
    asked = {request.body["prompt"] for request in fake.generations[1:]}
    assert asked == {f"{question.prompt} Flat and polar, hence near [value].\nMelting point (°C):"}
    assert completions[0].text.startswith(" Flat and polar, hence near 80 °C.\n")


@pytest.mark.parametrize("which", [0, 1])
def test_a_part_that_is_cut_off_makes_the_whole_cut_off(fake: FakeVllm, which: int) -> None:
    def cut(answer: dict[str, Any]) -> dict[str, Any]:
        for choice in answer["choices"]:
            choice["finish_reason"] = "length"
        return answer

    fake.fail_next(
        "/v1/completions", times=9, edit=cut, matching=lambda body: (body["n"] == 1) is bool(which)
    )
    [(_, completions)] = ask(fake, [VANILLIN])
    assert {completion.finish_reason for completion in completions} == {"length"}


@pytest.mark.parametrize(
    ("reason", "leaks"),
    [
        ("One benzene ring with hydroxyl and aldehyde groups, so about 80 °C.", True),
        ("One benzene ring with hydroxyl and aldehyde groups, so 82.", True),
        ("One benzene ring with hydroxyl and aldehyde groups: moderate.", False),
    ],
)
def test_a_hinted_reason_mustnt_tell_what_it_was_told(reason: str, leaks: bool) -> None:
    rules = Rules.of(RunConfig())
    text = f" {reason}\nMelting point (°C): 90"
    found = judge(text, "stop", VANILLIN, rules, hinted=True).verdict.findings
    assert ("answer leaked" in found) is leaks
    assert "answer leaked" not in judge(text, "stop", VANILLIN, rules).verdict.findings


def test_a_rounds_tallies_are_apart(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    with store.writer(0) as writer:
        writer.add([make_sample("A"), make_sample("A", sample_index=1, accepted=False)])
        writer.add([make_sample("B", hinted=True)])
    tallied = tally_round(store, 0)
    assert tallied.ordinary == {"A": Tally(1, 2, 1, 18)}
    assert tallied.hinted == {"B": Tally(1, 1, 1, 9)}
    assert tallied.accepted.keys() == {"A", "B"}
    assert store.molecules(0) == {"A": False, "B": True}


BATCH, ROUNDS = 8, 3
HINTED = {
    "rounds": ROUNDS,
    "sampler__strategy": "original",  # asks the same molecules again at once
    "rationalize__enabled": True,
    "rationalize__fraction": 0.5,
    "rationalize__after_rounds": 1,
    "property__tolerance": 12.0,
}


@pytest.fixture(scope="module")
def hinted_run(tmp_path_factory: pytest.TempPathFactory, small_config: MakeConfig) -> RunFolder:
    """A run of three rounds; in the last two, half of the completions may be hinted."""
    runs = tmp_path_factory.mktemp("hinted")
    with FakeVllm() as fake:
        loop(small_config(**HINTED), runs, fake)
    return RunFolder(runs / "test")


def content_of(folder: RunFolder) -> dict[tuple[str, int, str, int], tuple[str, bool, bool]]:
    return {key: (s.completion, s.accepted, s.hinted) for key, s in stored(folder).items()}


def test_failing_molecules_are_hinted_and_nothing_else_is(hinted_run: RunFolder) -> None:
    samples = list(stored(hinted_run).values())
    assert Counter(sample.round for sample in samples) == dict.fromkeys(range(ROUNDS), BATCH)
    hinted = [sample for sample in samples if sample.hinted]
    assert 4 <= len(hinted) <= BATCH
    assert not any(sample.round == 0 for sample in hinted)
    for sample in hinted:
        before = [
            s for s in samples if s.molecule_id == sample.molecule_id and s.round < sample.round
        ]
        assert before
        assert not any(s.accepted for s in before)
        molecule = Molecule(sample.molecule_id, sample.name, sample.smiles, sample.measured)
        assert sample.prompt == render_prompt(molecule, MELTING_POINT, (), "facts")
        same_round = [
            s for s in samples if (s.molecule_id, s.round) == (sample.molecule_id, sample.round)
        ]
        assert [s.hinted for s in same_round] == [True, True]


def test_hinted_samples_count_apart(hinted_run: RunFolder) -> None:
    samples = list(stored(hinted_run).values())
    records = load_records(hinted_run)
    assert sum(record.num_hinted_accepted for record in records) > 0
    for record in records[:ROUNDS]:
        mine = [sample for sample in samples if sample.round == record.round]
        ordinary = [sample for sample in mine if not sample.hinted]
        hinted = [sample for sample in mine if sample.hinted]
        assert record.num_completions == len(ordinary) == BATCH - record.num_hinted
        assert record.num_accepted == sum(sample.accepted for sample in ordinary)
        assert record.acceptance == record.num_accepted / len(ordinary)
        assert record.num_hinted == len(hinted)
        assert record.num_hinted_accepted == sum(sample.accepted for sample in hinted)
        told = f", hinted {record.num_hinted_accepted} of {len(hinted)}, "
        assert (told in round_line(record, MELTING_POINT)) == bool(hinted)
        assert sum(record.rejections.values()) == sum(len(s.rejections) for s in ordinary)
    trained = sum(record.num_accepted + record.num_hinted_accepted for record in records)
    assert records[-1].num_trained_samples == trained


def test_rescoring_a_hinted_run_changes_nothing(
    hinted_run: RunFolder, small_config: MakeConfig
) -> None:
    result = rescore(SampleStore(hinted_run.samples), small_config(**HINTED))
    assert (result.num_samples, result.num_changed) == (ROUNDS * BATCH, 0)


def unfinished(hinted_run: RunFolder, tmp_path: Path) -> RunFolder:
    """Return a copy as it was when round 1 began to generate."""
    folder = RunFolder(Path(shutil.copytree(hinted_run.path, tmp_path / "runs" / "test")))
    for index in range(1, ROUNDS):
        shutil.rmtree(SampleStore(folder.samples).round_folder(index))
    for index in range(2, ROUNDS + 1):
        shutil.rmtree(folder.adapter(index))
        folder.evaluation(index).unlink()
    folder.metrics.write_bytes(folder.metrics.read_bytes().splitlines(keepends=True)[0])
    return folder


def is_value_question(body: dict[str, Any]) -> bool:
    return body.get("n") == 1 and str(body["prompt"]).endswith("(°C):")


def test_a_server_that_fails_among_hinted_ones_leaves_whole_molecules(
    hinted_run: RunFolder, small_config: MakeConfig, fake: FakeVllm, tmp_path: Path
) -> None:
    folder = unfinished(hinted_run, tmp_path)
    config = small_config(**HINTED)
    fake.fail_next("/v1/completions", status=400, matching=is_value_question)
    with pytest.raises(ServerError, match="failed on command"):
        loop(config, folder.path.parent, fake)
    kept = content_of(folder)
    assert BATCH < len(kept) < 2 * BATCH
    loop(config, folder.path.parent, fake)
    assert content_of(folder) == content_of(hinted_run)
    assert kept.items() <= content_of(folder).items()


def test_a_loop_killed_among_hinted_ones_continues_without_loss_or_double(
    hinted_run: RunFolder, small_config: MakeConfig, fake: FakeVllm, tmp_path: Path
) -> None:
    folder = unfinished(hinted_run, tmp_path)
    config = tmp_path / "loop.toml"
    config.write_text(small_config(**HINTED).to_toml(), "utf-8")
    command = [
        *(sys.executable, "-m", "selfstudy_engine.cli", "loop", "--config", str(config)),
        *("--runs", str(folder.path.parent), "--server", fake.url),
    ]
    environment = os.environ | {"SELFSTUDY_SERVER_KEY": fake.api_key}

    def num_asked() -> int:
        return sum(is_value_question(request.body) for request in fake.generations)

    fake.fail_next("/v1/completions", hang=True, times=2, matching=is_value_question)
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: num_asked() > 0 or process.poll() is not None)
        time.sleep(1.5)  # what else has come is on the disk by then
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    kept = content_of(folder)
    assert BATCH < len(kept) < 2 * BATCH
    loop(small_config(**HINTED), folder.path.parent, fake)
    assert content_of(folder) == content_of(hinted_run)
    assert kept.items() <= content_of(folder).items()
