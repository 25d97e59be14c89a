"""The training process on a tiny model: what it is trained on, what it publishes, how it fails."""

import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from click.testing import CliRunner
from conftest import MakeConfig
from safetensors.torch import load_file, save_file
from samples import SHIPPED, make_rejected, make_sample
from tiny_training import adapter_logprobs, first_loss, main_here, train_here

from selfstudy_engine.cli.main import cli
from selfstudy_engine.data.adapters import MAX_PROBE_TOKENS, Adapter, read_adapter
from selfstudy_engine.data.derangement import derange
from selfstudy_engine.data.errors import AdapterError, TrainingError, UsageError
from selfstudy_engine.data.files import sha256_of
from selfstudy_engine.data.prompts import render_answer, render_question
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.training import TimeLimits, run_training
from selfstudy_engine.train.canary import shorten


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Work in an empty folder: training must leave nothing where it was called."""
    before, folder = Path.cwd(), tmp_path_factory.mktemp("elsewhere")
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store: of rounds 0 and 1, one accepted sample each, and a rejected one of round 0."""
    folder = tmp_path_factory.mktemp("samples")
    store = SampleStore(folder)
    with store.writer(0) as writer:
        writer.add(
            [
                make_sample(
                    prompt="SMILES: CCCCBr\nReason:",
                    reason="A chain.",
                    measured=61.0,
                    predicted=57.0,
                ),
                make_sample(sample_index=1, reason="Rejected.", accepted=False, rejections=("x",)),
            ]
        )
    with store.writer(1) as writer:
        writer.add(
            [make_sample(round=1, prompt="SMILES: CCCCI\nReason:", reason="Later.", measured=60.0)]
        )
    return folder


@dataclass(frozen=True)
class Trained:
    """An adapter that the real process trained."""

    adapter: Adapter
    figures: dict[str, Any]
    steps: list[tuple[int, int]]
    log: Path


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    small_config: MakeConfig,
    tiny_model: Path,
    samples: Path,
) -> Trained:
    folder = tmp_path_factory.mktemp("run")
    one_row = count_tokens(tiny_model, examples_of(61))
    config = small_config(train__tokens_per_step=one_row, train__epochs=4, train__min_steps=1)
    (folder / "run.toml").write_text(config.to_toml(), "utf-8")
    steps: list[tuple[int, int]] = []
    arguments: dict[str, object] = {
        "config": folder / "run.toml",
        "model": tiny_model,
        "exemplars": None,
        "samples": samples,
        "before_round": 1,
        "previous": None,
        "output": folder / "adapters" / "round-0001",
    }
    log = folder / "logs" / "train-0001.log"
    figures = run_training(arguments, log, TimeLimits(120, 60), lambda *step: steps.append(step))
    return Trained(read_adapter(folder / "adapters" / "round-0001"), figures, steps, log)


def examples_of(value_of_sample: int) -> list[tuple[str, str]]:
    """What training must see: ten exemplars, and the accepted sample of round 0."""
    from selfstudy_engine.data.properties import find_property

    prop = find_property("melting_point")
    exemplars = [
        (render_question(e.molecule, "facts"), render_answer(e.reason, e.molecule.value, prop))
        for e in SHIPPED
    ]
    sample = ("SMILES: CCCCBr\nReason:", f" A chain.\nMelting point (°C): {value_of_sample:03}")
    return [*exemplars, sample]


def token_ids_of(model: Path, examples: list[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """Prompt's and answer's token ids of each example, the end with the answer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    return [
        (
            tokenizer.encode(prompt),
            [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id],
        )
        for prompt, answer in examples
    ]


def count_tokens(model: Path, examples: list[tuple[str, str]]) -> int:
    """Tokens of all examples: a row of that size holds each of them once."""
    return sum(len(prompt) + len(answer) for prompt, answer in token_ids_of(model, examples))


def reference_loss(
    model: Path, examples: list[tuple[str, str]], weights: Sequence[float] = ()
) -> float:
    """Mean weighed cross entropy of the answers' tokens, one sequence at a time, unpacked."""
    losses = []
    sequences = token_ids_of(model, examples)
    of_each = weights or [1.0] * len(sequences)
    for (of_prompt, of_answer), weight in zip(sequences, of_each, strict=True):
        logprobs = adapter_logprobs(model, None, of_prompt + of_answer)
        for offset, token in enumerate(of_answer):
            losses.append(-weight * float(logprobs[len(of_prompt) + offset - 1, token]))
    return sum(losses) / len(losses)


def test_the_process_publishes_an_adapter_with_its_figures(
    trained: Trained, tiny_model: Path
) -> None:
    adapter, figures = trained.adapter, trained.figures
    assert (figures["num_exemplars"], figures["num_samples"]) == (10, 1)
    assert figures == adapter.training | {"seconds": figures["seconds"]}
    assert 0 < figures["seconds"] < 120
    assert math.isfinite(figures["loss"])
    assert adapter.name == "round-0001"
    assert adapter.base_model == str(tiny_model)
    assert (adapter.rank, adapter.scaling) == (4, 2.0)
    manifest = orjson.loads((adapter.folder / "manifest.json").read_bytes())
    assert set(manifest["files"]) == {
        path.name for path in adapter.folder.iterdir() if path.name != "manifest.json"
    }
    assert adapter.sha256 == sha256_of(adapter.folder / "adapter_model.safetensors")


def test_the_command_goes_on_from_the_adapter_that_it_is_given(
    trained: Trained, samples: Path, small_config: MakeConfig, tmp_path: Path
) -> None:
    config = small_config(train__start_from="previous", train__min_steps=1)
    (tmp_path / "run.toml").write_text(config.to_toml(), "utf-8")
    command = ["train", "--config", str(tmp_path / "run.toml"), "--samples", str(samples)]
    command += ["--out", str(tmp_path / "next")]
    refused = CliRunner().invoke(cli, command)
    assert refused.exit_code == 2
    assert "name the adapter to go on from with --previous" in refused.output
    done = CliRunner().invoke(cli, [*command, "--previous", str(trained.adapter.folder)])
    assert done.exit_code == 0, done.output
    adapter = read_adapter(tmp_path / "next")
    assert f"(loss {adapter.training['loss']:.3f}, 10 exemplars + 2 samples" in done.output
    assert adapter.training["loss"] < trained.figures["loss"] - 1


def test_nothing_else_is_left(trained: Trained, elsewhere: Path) -> None:
    assert [path.name for path in trained.adapter.folder.parent.iterdir()] == ["round-0001"]
    assert list(elsewhere.iterdir()) == []


def test_each_step_is_reported(trained: Trained) -> None:
    total = trained.figures["steps"]
    assert sorted(set(trained.steps)) == [(step, total) for step in range(1, total + 1)]
    assert trained.steps == sorted(trained.steps)


def test_the_canarys_texts_end_where_the_value_begins(trained: Trained, tiny_model: Path) -> None:
    wholes = [prompt + answer for prompt, answer in token_ids_of(tiny_model, examples_of(61))]
    texts = [probe.token_ids for probe in trained.adapter.canary]
    assert texts == [shorten(whole) for whole in wholes[: len(texts)]]
    for text, whole in zip(texts, wholes, strict=False):
        assert len(text) <= MAX_PROBE_TOKENS
        assert (text[0], text[-40:]) == (whole[0], whole[-44:-4])
    assert any(len(whole) > MAX_PROBE_TOKENS for whole in wholes[: len(texts)])


def test_the_canary_is_what_a_fresh_load_computes(trained: Trained, tiny_model: Path) -> None:
    assert len(trained.adapter.canary) == 3
    for probe in trained.adapter.canary:
        ids = torch.tensor(probe.token_ids)[1:, None]
        with_adapter = adapter_logprobs(tiny_model, trained.adapter.folder, probe.token_ids)
        without = adapter_logprobs(tiny_model, None, probe.token_ids)
        for found, expected in (
            (with_adapter, probe.adapter_logprobs),
            (without, probe.base_logprobs),
        ):
            of_tokens = found[:-1].gather(-1, ids)[:, 0]
            assert of_tokens.tolist() == pytest.approx(expected, abs=1e-3)
        assert float(with_adapter[-1].max()) == pytest.approx(probe.next_logprob, abs=1e-3)


def test_loss_is_on_answers_only_and_packing_changes_nothing(
    trained: Trained, tiny_model: Path
) -> None:
    """Also: exemplars, accepted samples of earlier rounds, and nothing else; labels measured."""
    expected = reference_loss(tiny_model, examples_of(61))
    assert first_loss(trained.log.read_text("utf-8")) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(("label", "value"), [("measured", 61), ("predicted", 57)])
def test_the_label_decides_which_value_is_learned(
    label: str,
    value: int,
    small_config: MakeConfig,
    tiny_model: Path,
    samples: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one_row = count_tokens(tiny_model, examples_of(value))
    config = small_config(
        train__label=label,
        train__tokens_per_step=one_row,
        train__epochs=4,
        train__min_steps=1,
    )
    train_here(config, tiny_model, tmp_path / "a", samples=samples, before_round=1)
    expected = reference_loss(tiny_model, examples_of(value))
    assert first_loss(capsys.readouterr().out) == pytest.approx(expected, abs=2e-4)


def test_balanced_samples_weigh_as_their_values_were_asked_about(
    small_config: MakeConfig, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two bands, asked about alike, one has three of the four samples."""
    store = SampleStore(tmp_path / "samples")
    with store.writer(0) as writer:
        writer.add(make_sample(name, measured=20.0, reason="Low.") for name in "ABC")
        writer.add([make_sample("D", measured=90.0, reason="A ring.")])
        writer.add(make_rejected(name, measured=90.0) for name in "EF")
    question = make_sample().prompt
    low, high = " Low.\nMelting point (°C): 020", " A ring.\nMelting point (°C): 090"
    examples = [*examples_of(61)[:-1], *[(question, low)] * 3, (question, high)]
    config = small_config(
        train__sample_weights="balanced",
        train__tokens_per_step=count_tokens(tiny_model, examples),
        train__epochs=4,
        train__min_steps=1,
        sampler__num_value_bands=2,
    )
    figures = train_here(config, tiny_model, tmp_path / "a", samples=store.folder)
    weights = [1.0] * 10 + [2 / 3] * 3 + [2.0]
    expected = reference_loss(tiny_model, examples, weights)
    assert first_loss(capsys.readouterr().out) == pytest.approx(expected, abs=2e-4)
    assert abs(expected - reference_loss(tiny_model, examples)) > 2e-3
    assert figures["sample_weights"] == "balanced"


@pytest.mark.parametrize("reasons", ["drop", "shuffle"])
def test_the_reasons_that_are_trained_on_are_the_ones_asked_for(
    reasons: str,
    trained: Trained,
    small_config: MakeConfig,
    tiny_model: Path,
    samples: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The loss is that of those texts; the canary's texts are the same whatever is trained on."""
    kept = examples_of(61)
    if reasons == "drop":
        expected = [(prompt, answer[answer.index("\n") :]) for prompt, answer in kept]
    else:
        ids = [e.molecule.molecule_id for e in SHIPPED]
        givers = derange([*ids, "LFQSCWFLJHTTHZ-UHFFFAOYSA-N"], seed=0)
        expected = [
            (prompt, kept[giver][1].split("\n")[0] + "\n" + answer.split("\n")[1])
            for (prompt, answer), giver in zip(kept, givers, strict=True)
        ]
    one_row = count_tokens(tiny_model, expected)
    config = small_config(
        train__reasons=reasons,
        train__tokens_per_step=one_row,
        train__epochs=4,
        train__min_steps=1,
    )
    figures = train_here(config, tiny_model, tmp_path / "a", samples=samples, before_round=1)
    loss = first_loss(capsys.readouterr().out)
    assert loss == pytest.approx(reference_loss(tiny_model, expected), abs=2e-4)
    adapter = read_adapter(tmp_path / "a")
    assert (figures["reasons"], adapter.training["reasons"]) == (reasons, reasons)
    assert (trained.figures["reasons"], trained.figures["label"]) == ("keep", "measured")
    texts = [probe.token_ids for probe in adapter.canary]
    assert texts == [probe.token_ids for probe in trained.adapter.canary]
    assert adapter.canary[0].adapter_logprobs != trained.adapter.canary[0].adapter_logprobs


def test_epochs_are_kept_where_min_steps_allow(
    small_config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    config = small_config(train__tokens_per_step=4096, train__min_steps=1, train__warmup_fraction=0)
    once = train_here(config, tiny_model, tmp_path / "once")
    assert once["steps"] == 1
    config = small_config(train__tokens_per_step=256, train__min_steps=1)
    assert once["num_tokens"] == train_here(config, tiny_model, tmp_path / "b")["num_tokens"]


def test_without_a_round_all_accepted_samples_count(
    small_config: MakeConfig, tiny_model: Path, samples: Path, tmp_path: Path
) -> None:
    figures = train_here(small_config(), tiny_model, tmp_path / "a", samples=samples)
    assert figures["num_samples"] == 2


def test_exemplars_of_a_file(small_config: MakeConfig, tiny_model: Path, tmp_path: Path) -> None:
    line = {"name": "", "smiles": "CCCC", "value": -138.3, "reason": "A short chain."}
    (tmp_path / "own.jsonl").write_bytes(orjson.dumps(line))
    figures = train_here(
        small_config(), tiny_model, tmp_path / "a", exemplars=tmp_path / "own.jsonl"
    )
    assert figures["num_exemplars"] == 1


def test_training_is_repeatable(small_config: MakeConfig, tiny_model: Path, tmp_path: Path) -> None:
    for name in "ab":
        train_here(small_config(), tiny_model, tmp_path / name)
    first, second = (load_file(tmp_path / n / "adapter_model.safetensors") for n in "ab")
    assert all(torch.allclose(first[key], second[key], atol=1e-6) for key in first)


def test_starting_from_the_previous_adapter(
    trained: Trained, small_config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    """A tiny step from it stays near it, far from the base model."""
    config = small_config(train__learning_rate=1e-6)
    previous = trained.adapter.folder
    train_here(config, tiny_model, tmp_path / "next", previous=previous)
    before = load_file(previous / "adapter_model.safetensors")
    after = load_file(tmp_path / "next" / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[key], after[key], atol=1e-4) for key in before)
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_a_damaged_previous_adapter_is_refused(
    trained: Trained, small_config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    damaged = shutil.copytree(trained.adapter.folder, tmp_path / "damaged")
    with (damaged / "adapter_model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(AdapterError, match="isn't what was published"):
        train_here(small_config(), tiny_model, tmp_path / "next", previous=damaged)


def test_an_existing_output_is_never_overwritten(
    trained: Trained,
    small_config: MakeConfig,
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And the user reads which folder, without a traceback."""
    (tmp_path / "run.toml").write_text(small_config().to_toml(), "utf-8")
    folder = trained.adapter.folder
    before = {path.name: sha256_of(path) for path in folder.iterdir()}
    code, last = main_here(
        capsys, "--config", tmp_path / "run.toml", "--model", tiny_model, "--output", folder
    )
    assert {path.name: sha256_of(path) for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["round-0001"]
    assert code != 0
    assert last["event"] == "error"
    assert str(folder) in last["message"]
    assert "exists" in last["message"]


def test_an_adapter_that_learned_nothing_isnt_published(
    small_config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    config = small_config(train__learning_rate=1e-9)
    with pytest.raises(TrainingError, match=r"learned nothing; raise train.learning_rate"):
        train_here(config, tiny_model, tmp_path / "adapters" / "a")
    assert not (tmp_path / "adapters").exists() or list((tmp_path / "adapters").iterdir()) == []


def test_a_loss_that_isnt_finite_says_so(
    small_config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    """Not "it learned nothing; raise train.learning_rate", which would make it worse."""
    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"].fill_(float("nan"))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError) as raised:
        train_here(small_config(), broken, tmp_path / "a")
    assert "nan" in str(raised.value)
    assert "raise train.learning_rate" not in str(raised.value)
    assert not (tmp_path / "a").exists()


def test_a_sequence_over_the_models_limit_is_named(
    small_config: MakeConfig,
    tiny_model: Path,
    samples: Path,
    tmp_path: Path,
) -> None:
    with SampleStore(tmp_path / "long").writer(0) as writer:
        writer.add([make_sample(prompt=f"SMILES: {'CN' * 200}\nReason:")])
    config = small_config(server__max_model_len=256)
    with pytest.raises(UsageError, match="tokens, over the limit of 256; raise --max-model-len"):
        train_here(config, tiny_model, tmp_path / "a", samples=tmp_path / "long")
