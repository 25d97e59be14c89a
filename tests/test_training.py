"""The training process on a tiny model: what it is trained on, what it publishes, how it fails."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from conftest import MakeSample
from safetensors.torch import load_file, save_file
from samples import SHIPPED

from selfstudy_engine.data.adapters import MAX_PROBE_TOKENS, WEIGHTS, Adapter, read_adapter
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.derangement import derange
from selfstudy_engine.data.errors import AdapterError, TrainingError, UsageError
from selfstudy_engine.data.files import sha256_of
from selfstudy_engine.data.prompts import render_answer, render_question
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.launching import launch_here
from selfstudy_engine.engine.training import TimeLimits, TrainingProcess, run_training
from selfstudy_engine.train.answer_trainer import answer_loss
from selfstudy_engine.train.canary import shorten

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Work in an empty folder: training must leave nothing where it was called."""
    before, folder = Path.cwd(), tmp_path_factory.mktemp("elsewhere")
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory, make_sample: MakeSample) -> Path:
    """A store: of rounds 0 and 1, one accepted sample each, and a rejected one of round 0."""
    folder = tmp_path_factory.mktemp("samples")
    store = SampleStore(folder)
    with store.writer(0) as writer:
        writer.add(
            [
                make_sample(prompt="SMILES: CCCCBr\nReason:", reason="A chain.", measured=61.0),
                make_sample(sample_index=1, reason="Rejected.", accepted=False, rejections=("x",)),
            ]
        )
    with store.writer(1) as writer:
        writer.add([make_sample(round=1, prompt="SMILES: CCCCI\nReason:", reason="Later.")])
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


def train_here(config: RunConfig, model: Path, output: Path, **job: Any) -> dict[str, Any]:
    """Train in this process, which has imported torch already."""
    from selfstudy_engine.train.trainer import TrainingJob, train_adapter

    defaults: dict[str, Any] = {"exemplars": None, "samples": None, "before_round": None}
    return train_adapter(
        TrainingJob(config=config, model=str(model), output=output, **(defaults | job))
    )


def main_here(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    """Run the process's main function; returns its exit code and last line."""
    from selfstudy_engine.train.__main__ import main

    code = main([str(argument) for argument in arguments])
    return code, orjson.loads(capsys.readouterr().out.splitlines()[-1])


def adapter_logprobs(model: Path, adapter: Path | None, token_ids: list[int]) -> torch.Tensor:
    """Log-probabilities of every next token, from a fresh load."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if adapter:
        loaded = PeftModel.from_pretrained(loaded, adapter)
    with torch.inference_mode():
        logits = loaded.eval()(input_ids=torch.tensor([token_ids])).logits[0]
    return torch.as_tensor(logits.log_softmax(-1))


def examples_of(value_of_sample: int) -> list[tuple[str, str]]:
    """What training must see: ten exemplars, and the accepted sample of round 0."""
    from selfstudy_engine.data.properties import find_property

    prop = find_property("melting_point")
    exemplars = [
        (render_question(e.molecule, "facts"), render_answer(e.reason, e.molecule.value, prop))
        for e in SHIPPED
    ]
    sample = ("SMILES: CCCCBr\nReason:", f" A chain.\nMelting point (°C): {value_of_sample}")
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


def reference_loss(model: Path, examples: list[tuple[str, str]]) -> float:
    """Mean cross entropy of the answers' tokens, one sequence at a time, unpacked."""
    losses = []
    for of_prompt, of_answer in token_ids_of(model, examples):
        logprobs = adapter_logprobs(model, None, of_prompt + of_answer)
        for offset, token in enumerate(of_answer):
            losses.append(-float(logprobs[len(of_prompt) + offset - 1, token]))
    return sum(losses) / len(losses)


def first_loss(log: str) -> float:
    records = [orjson.loads(line) for line in log.splitlines() if line.startswith("{")]
    return float(next(r["loss"] for r in records if r["event"] == "log" and r["step"] == 1))


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


def test_nothing_else_is_left(trained: Trained, elsewhere: Path) -> None:
    assert [path.name for path in trained.adapter.folder.parent.iterdir()] == ["round-0001"]
    assert list(elsewhere.iterdir()) == []


def test_each_step_is_reported(trained: Trained) -> None:
    total = trained.figures["steps"]
    assert sorted(set(trained.steps)) == [(step, total) for step in range(1, total + 1)]
    assert trained.steps == sorted(trained.steps)


def test_the_canarys_texts_end_with_what_was_learned(trained: Trained, tiny_model: Path) -> None:
    wholes = [prompt + answer for prompt, answer in token_ids_of(tiny_model, examples_of(61))]
    texts = [probe.token_ids for probe in trained.adapter.canary]
    assert texts == [shorten(whole) for whole in wholes[: len(texts)]]
    for text, whole in zip(texts, wholes, strict=False):
        assert len(text) <= MAX_PROBE_TOKENS
        assert (text[0], text[-40:]) == (whole[0], whole[-40:])
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
    make_sample: MakeSample,
    tmp_path: Path,
) -> None:
    with SampleStore(tmp_path / "long").writer(0) as writer:
        writer.add([make_sample(prompt=f"SMILES: {'CN' * 200}\nReason:")])
    config = small_config(server__max_model_len=256)
    with pytest.raises(UsageError, match="tokens, over the limit of 256; raise --max-model-len"):
        train_here(config, tiny_model, tmp_path / "a", samples=tmp_path / "long")


def wait_for(what: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it didn't happen in time"
        time.sleep(0.0005)


def test_a_killed_process_leaves_no_adapter(
    small_config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    """Killed at the worst moment: while it writes the adapter's folder."""
    (tmp_path / "run.toml").write_text(small_config().to_toml(), "utf-8")
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    output = adapters / "round-0000"
    command = [sys.executable, "-m", "selfstudy_engine.train", "--config", tmp_path / "run.toml"]
    command += ["--model", tiny_model, "--output", output]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: any(adapters.iterdir()) or process.poll() is not None, 120)
        process.send_signal(signal.SIGKILL)
    if output.exists():
        read_adapter(output)  # it was faster: then the folder is whole
        pytest.skip("the process was done before it could be killed")
    # The next try isn't disturbed by what lies there, and clears it away.
    train_here(small_config(), tiny_model, output)
    read_adapter(output)
    assert [path.name for path in adapters.iterdir()] == ["round-0000"]


def test_a_training_that_takes_too_long_is_ended(
    small_config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text(small_config().to_toml(), "utf-8")
    arguments: dict[str, object] = {
        "config": tmp_path / "run.toml",
        "model": tiny_model,
        "output": tmp_path / "a",
    }
    started = time.monotonic()
    with pytest.raises(TrainingError, match=r"longer than 0\.3 s and was ended; raise train\.time"):
        run_training(arguments, tmp_path / "train.log", TimeLimits(0.3, 60))
    assert time.monotonic() - started < 5
    assert not (tmp_path / "a").exists()


def test_a_training_that_hangs_is_ended_and_one_that_shows_progress_isnt(
    tmp_path: Path,
) -> None:
    """Four signs half a second apart are no hang of a second; what follows is one."""
    script = """if True:
    import time
    for step in range(4):
        print('{"event": "step", "step": %d, "max_steps": 9}' % step, flush=True)
        time.sleep(0.5)
    time.sleep(600)
    """
    steps: list[int] = []
    launch = replace(launch_here(), command=(sys.executable, "-c", script))
    started = time.monotonic()
    with pytest.raises(TrainingError, match=r"no sign of life for 1 s .*train\.stall_seconds"):
        run_training(
            {},
            tmp_path / "train.log",
            TimeLimits(60, 1),
            lambda step, _: steps.append(step),
            launch,
        )
    assert steps == [0, 1, 2, 3]
    assert 2.4 < time.monotonic() - started < 30


def test_a_process_that_the_system_killed_says_that_memory_may_have_run_out(
    small_config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text(small_config().to_toml(), "utf-8")
    arguments: dict[str, object] = {"config": tmp_path / "run.toml", "model": tiny_model}
    arguments["output"] = tmp_path / "a"
    with TrainingProcess(arguments, tmp_path / "train.log", TimeLimits(60, 60)) as training:
        os.kill(training.pid, signal.SIGKILL)
        with pytest.raises(TrainingError, match=r"exit code -9; if nobody killed it, .*memory"):
            training.result()


def test_a_row_that_memory_is_too_small_for_is_computed_in_parts(
    small_config: MakeConfig,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And comes to the same adapter."""
    config = small_config(train__min_steps=8, train__tokens_per_step=512)
    sizes = limit_memory(monkeypatch, 10_000, "")
    train_here(config, tiny_model, tmp_path / "whole")
    limit = max(sizes) // 3
    sizes = limit_memory(monkeypatch, limit, "DefaultCPUAllocator: can't allocate memory")
    capsys.readouterr()
    train_here(config, tiny_model, tmp_path / "parts")
    assert max(sizes) <= limit
    records = [orjson.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["parts"] for r in records if r["event"] == "memory"] == [2, 4]
    whole, parts = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "parts"))
    for name, expected in whole.items():
        torch.testing.assert_close(parts[name], expected, rtol=1e-3, atol=1e-5)


def test_memory_that_is_too_small_for_one_sequence_says_what_to_lower(
    small_config: MakeConfig, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_memory(monkeypatch, 10, "CUDA out of memory. Tried to allocate 2.00 GiB.")
    with pytest.raises(TrainingError, match=r"one sequence of \d+ tokens .* lower train\.rank"):
        train_here(small_config(), tiny_model, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_another_error_of_a_step_isnt_taken_for_memory(
    small_config: MakeConfig, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_memory(monkeypatch, 10, "mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        train_here(small_config(), tiny_model, tmp_path / "a")


def limit_memory(monkeypatch: pytest.MonkeyPatch, num_tokens: int, message: str) -> list[int]:
    """Fail as torch does where more tokens are computed at once; returns what was computed."""
    sizes: list[int] = []

    def limited(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        if len(targets) > num_tokens:
            raise RuntimeError(message)
        sizes.append(len(targets))
        return answer_loss(logits, targets, weights)

    monkeypatch.setattr("selfstudy_engine.train.answer_trainer.answer_loss", limited)
    return sizes


def test_a_process_that_fails_otherwise_shows_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"exit code 2.*train\.log:\n(.*\n)*.*--config"):
        run_training({"samples": tmp_path}, tmp_path / "logs" / "train.log", TimeLimits(60, 60))


def test_the_process_says_what_is_wrong_in_one_line(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.toml").write_text("rounds = 0\n", "utf-8")
    code, last = main_here(
        capsys, "--config", tmp_path / "run.toml", "--model", tiny_model, "--output", tmp_path / "a"
    )
    assert (code, last["event"]) == (2, "error")
    assert "rounds: Input should be greater than or equal to 1" in last["message"]
