"""`evaluate` on a finished run and without one, through the fake server."""

import random
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result
from conftest import small_molecules
from fake_http import Request
from fake_vllm import FakeVllm
from made_answers import cut_off

from selfstudy_engine.cli.main import cli
from selfstudy_engine.data.evaluations import load_evaluation, paired_difference
from selfstudy_engine.data.run_folder import RunFolder, read_config
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.data.task import split_of_run
from selfstudy_engine.engine.rounds import load_records

LABEL = "\nMelting point (°C):"


def call(fake: FakeVllm, *arguments: Any) -> Result:
    environment = {"SELFSTUDY_SERVER_KEY": fake.api_key}
    command = ["evaluate", "--server", fake.url, *map(str, arguments)]
    return CliRunner().invoke(cli, command, env=environment)


def of_run(folder: RunFolder, fake: FakeVllm, *arguments: Any) -> dict[str, Any]:
    where = ["--run", "test", "--runs", folder.path.parent, "--json"]
    result = call(fake, *where, *arguments)
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = orjson.loads(result.stdout)
    return document


def asked(fake: FakeVllm) -> list[Request]:
    return [request for request in fake.requests if request.kind == "/v1/completions"]


def compared(document: dict[str, Any]) -> dict[str, Any]:
    return {one["reference"]: one["change"]["mae"] for one in document["compared"]}


def test_the_last_round_by_default_from_what_the_run_kept(
    finished: RunFolder, fake: FakeVllm
) -> None:
    found = of_run(finished, fake)
    last = load_records(finished)[-1]
    assert found["subject"] == "round 2"
    assert found["metrics"]["mae"] == asdict(last.test_mae)
    assert found["notes"] == []
    median = split_of_run(finished, read_config(finished)).median
    answers = [a for a in load_evaluation(finished.evaluation(2)) if a.split == "test"]
    assert found["fallback"] == median
    assert found["num_unanswered"] == sum(answer.predicted is None for answer in answers)
    assert list(compared(found)) == ["always the training median"]
    assert fake.requests == [], "no server is needed"


def test_the_best_round_comes_with_a_warning(finished: RunFolder, fake: FakeVllm) -> None:
    found = of_run(finished, fake, "--adapter", "best")
    best = min(load_records(finished), key=lambda record: record.test_mae.value)
    assert found["subject"] == f"round {best.round}"
    [note] = found["notes"]
    assert "best of 3 by its error on this test set" in note
    where = ["--run", "test", "--runs", finished.path.parent]
    assert note in " ".join(call(fake, *where, "--adapter", "best").stdout.split())


def test_any_two_are_compared_pair_by_pair(finished: RunFolder, fake: FakeVllm) -> None:
    found = of_run(finished, fake, "--adapter", 1, "--against", 0, "--against", "base")
    median = split_of_run(finished, read_config(finished)).median
    zero, one = (load_evaluation(finished.evaluation(index)) for index in (0, 1))
    change = paired_difference(zero, one, median)
    assert compared(found)["round 0, greedy"]["value"] == change.value
    assert "base model, greedy" in compared(found)
    [swap] = [r for r in fake.requests if r.path == "/collective_rpc"]
    assert swap.body["kwargs"]["adapter_folder"] is None
    assert len(asked(fake)) == 6


def test_an_adapters_folder_is_asked_and_its_answers_written(
    finished: RunFolder, fake: FakeVllm, tmp_path: Path
) -> None:
    out = tmp_path / "answers.parquet"
    found = of_run(finished, fake, "--adapter", finished.adapter(2), "--out", out)
    kept = [a for a in load_evaluation(finished.evaluation(2)) if a.split == "test"]
    written = load_evaluation(out)
    assert [a.completion for a in written] == [a.completion for a in kept]
    assert len({answer.adapter_sha256 for answer in written}) == 1
    assert len(written[0].adapter_sha256) == 64
    assert found["metrics"] == of_run(finished, fake)["metrics"]


def test_other_questions_than_the_runs_are_asked_anew(finished: RunFolder, fake: FakeVllm) -> None:
    of_run(finished, fake, "--prompt-exemplars", 2)
    prompts = [request.body["prompt"] for request in asked(fake)]
    assert [prompt.count("Reason:") for prompt in prompts] == [3] * 6


def test_several_answers_give_a_median_and_a_calibrated_spread(
    finished: RunFolder, fake: FakeVllm, tmp_path: Path
) -> None:
    fake.script = lambda prompt, name, index: f" Because.{LABEL} {50 + (index - 2) ** 3}"
    out = tmp_path / "answers.parquet"
    found = of_run(finished, fake, "--samples", 4, "--out", out)
    bodies = [request.body for request in asked(fake)]
    assert {(body["n"], body["temperature"]) for body in bodies} == {(4, 0.7)}
    answers = load_evaluation(out)
    assert {answer.predicted for answer in answers} == {49.5}
    assert {answer.values for answer in answers} == {(42.0, 49.0, 50.0, 51.0)}
    assert {answer.num_answers for answer in answers} == {4}
    assert answers[0].spread == pytest.approx((50.25 - 47.25) / 2)
    assert found["asked"] == "median of 4 answers"
    assert [one["nominal"] for one in found["calibration"]["coverage"]] == [0.5, 0.6]
    assert list(compared(found)) == ["round 2, greedy", "always the training median"]


def test_a_number_that_the_token_limit_cut_off_is_no_answer(
    finished: RunFolder, fake: FakeVllm
) -> None:
    fake.script = lambda prompt, name, index: f" Because.{LABEL} 12"  # of 120
    fake.fail_next("/v1/completions", times=100, edit=cut_off)
    found = of_run(finished, fake, "--samples", 2)
    assert (found["num_unanswered"], found["metrics"]["answered"]["value"]) == (6, 0.0)


def follow_the_reason(prompt: str, name: str, index: int) -> str:
    """Give values that are the reason's number, whatever the molecule."""
    number = sum(map(ord, prompt)) % 90
    if prompt.endswith(LABEL):
        return f" {prompt.split()[-4]}"  # Reason: Number 7. Melting point (°C):
    return f" Number {number}{LABEL} {number}"


def follow_the_molecule(prompt: str, name: str, index: int) -> str:
    """Give values that are the molecule's, whatever the reason."""
    question = prompt.split("Reason:", maxsplit=1)[0]
    number = sum(map(ord, question)) % 90
    return f" {number}" if prompt.endswith(LABEL) else f" Number {number}{LABEL} {number}"


def test_swapped_reasons_tell_what_the_value_follows(
    finished: RunFolder, fake: FakeVllm, tmp_path: Path
) -> None:
    folder = finished.adapter(2)  # so that its plain answers come from the script too
    fake.script = follow_the_reason
    out = tmp_path / "answers.parquet"
    found = of_run(finished, fake, "--adapter", folder, "--swap-reasons", "--out", out)
    use = found["reason_use"]
    assert use["follows_reason"]["value"] == pytest.approx(1.0)
    assert use["follows_molecule"]["value"] < 1.0
    assert use["moved"]["value"] == 1.0
    plain, swapped = asked(fake)[:6], asked(fake)[6:]
    assert len(swapped) == 6
    assert all(request.body["prompt"].endswith(LABEL) for request in swapped)
    own = {
        request.body["prompt"]: follow_the_reason(request.body["prompt"], "", 0).split("\n")[0]
        for request in plain
    }
    for request in swapped:
        question, reason = re.split(r"(?<=Reason:)", request.body["prompt"].removesuffix(LABEL))
        assert reason in own.values()
        assert reason != own[question]
    for answer in load_evaluation(out):
        assert answer.completion.startswith(" Number ")
        assert answer.predicted == float(answer.reason.split()[-1])

    fake.script = follow_the_molecule
    use = of_run(finished, fake, "--adapter", folder, "--swap-reasons")["reason_use"]
    assert use["follows_molecule"]["value"] == pytest.approx(1.0)
    assert use["moved"]["value"] == 0.0
    assert use["mean_move"]["value"] == 0.0

    def break_off(prompt: str, name: str, index: int) -> str:
        """The same, but for answers without a value, which neither stay nor change."""
        is_broken = prompt.endswith(LABEL) and sum(map(ord, prompt)) % 2
        return " none" if is_broken else follow_the_molecule(prompt, name, index)

    fake.script = break_off
    num_before = len(asked(fake))
    use = of_run(finished, fake, "--adapter", folder, "--swap-reasons")["reason_use"]
    prompts = [request.body["prompt"] for request in asked(fake)[num_before:]][-6:]
    assert {sum(map(ord, prompt)) % 2 for prompt in prompts} == {0, 1}, "some are broken"
    assert use["moved"]["value"] == 0.0
    assert use["mean_move"]["value"] == 0.0


def test_sampling_and_hiding_are_not_taken_for_the_reasons_doing(
    finished: RunFolder, fake: FakeVllm, named: Path, tiny_model: Path
) -> None:
    """Values hang on the molecule, on what is hidden of it, and on luck: not on the reason."""
    luck = random.Random(0)

    def answer(prompt: str, name: str, index: int) -> str:
        question = prompt.rsplit("Reason:", maxsplit=1)[0]
        lucky = luck.randrange(50) if index else 0
        number = sum(map(ord, question)) % 900 + lucky
        return f" {number}" if prompt.endswith(LABEL) else f" Number {number}{LABEL} {number}"

    fake.script = answer
    adapter = ["--adapter", finished.adapter(2), "--swap-reasons"]
    use = of_run(finished, fake, *adapter, "--samples", 4)["reason_use"]
    assert use["moved"]["value"] == use["moved_again"]["value"] == 1.0
    assert abs(use["mean_move"]["value"] - use["mean_move_again"]["value"]) < 10
    table = ["--table", named, "--name-column", "name", "--test-size", 12]
    model = ["--model", tiny_model, "--dtype", "float32"]
    result = call(fake, *table, *model, *adapter, "--hide", "name", "--json")
    assert result.exit_code == 0, result.output
    use = orjson.loads(result.stdout)["reason_use"]
    assert use["moved"]["value"] == 0.0
    assert use["moved_again"] is None


def test_an_adapter_without_reasons_has_none_to_swap(finished: RunFolder, fake: FakeVllm) -> None:
    fake.script = lambda prompt, name, index: f"{LABEL} 50"
    where = ["--run", "test", "--runs", finished.path.parent, "--adapter", finished.adapter(2)]
    result = call(fake, *where, "--swap-reasons")
    assert result.exit_code == 2
    assert "there are no reasons to swap" in " ".join(result.output.split())
    assert "greedy" in call(fake, *where).output, "but direct answers can be measured"


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """A table in which every other molecule has a name."""
    path = tmp_path / "named.csv"
    lines = [
        f"{smiles},{value},{f'compound {index}' if index % 2 else ''}"
        for index, (smiles, value) in enumerate(small_molecules())
    ]
    path.write_text("smiles,value,name\n" + "\n".join(lines) + "\n", "utf-8")
    return path


def test_a_hidden_line_is_left_out_of_the_question(
    finished: RunFolder, fake: FakeVllm, named: Path, tiny_model: Path
) -> None:
    """Without a run: the table's split, the folder's adapter, the base model for comparison."""
    table = ["--table", named, "--name-column", "name", "--test-size", 12]
    model = ["--model", tiny_model, "--dtype", "float32"]
    adapter = ["--adapter", finished.adapter(1), "--against", "base"]

    def prompts(hidden: str) -> tuple[dict[str, Any], list[str]]:
        fake.requests.clear()
        result = call(fake, *table, *model, *adapter, "--hide", hidden, "--json")
        assert result.exit_code == 0, result.output
        return orjson.loads(result.stdout), [request.body["prompt"] for request in asked(fake)]

    found, given = prompts("name")
    assert found["asked"] == "greedy, name hidden"
    assert list(compared(found)) == [
        "base model, greedy, name hidden",
        f"adapter {finished.adapter(1)}, greedy",
        "always the training median",
    ]
    assert len(given) == 36
    assert all(prompt.startswith("SMILES: ") for prompt in given[:24])
    num_named = sum("Name: compound" in prompt for prompt in given[24:])
    assert 0 < num_named < 12

    found, given = prompts("smiles")
    assert found["metrics"]["num_molecules"] == num_named
    assert found["num_left_out"] == 12 - num_named
    assert {one["num_molecules"] for one in found["compared"]} == {num_named}
    hidden = given[: 2 * num_named]
    assert all(re.fullmatch(r"Name: compound \d+\nReason:", prompt) for prompt in hidden)


def test_adapters_bring_their_base_model_along(
    finished: RunFolder, fake: FakeVllm, table: Path
) -> None:
    where = ["--table", table, "--test-size", 6, "--dtype", "float32"]
    result = call(fake, *where, "--adapter", finished.adapter(2), "--json")
    assert result.exit_code == 0, result.output
    assert orjson.loads(result.stdout)["metrics"] == of_run(finished, fake)["metrics"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--adapter", "nowhere"], "neither last, best, base, a round's number nor the folder"),
        (["--adapter", "9"], "has no round 9; its finished rounds are 0 to 2"),
        (["--against", "nowhere"], "neither last"),
        (["--out", "answers.csv"], "must be a new file that ends in .parquet"),
        (["--table", "other.csv", "--seed", "3"], "brings its own table.path, seed"),
        (["--template", "smiles", "--hide", "name"], "show the SMILES alone"),
        (["--hide", "smiles"], "no molecule of the test set has a name"),
        (["--samples", "4", "--temperature", "0"], "would be all alike"),
        (["--replicas", "2"], "leave out the one or the others"),
    ],
)
def test_a_wrong_call_says_why(
    finished: RunFolder, fake: FakeVllm, arguments: list[str], message: str
) -> None:
    result = call(fake, "--run", "test", "--runs", finished.path.parent, *arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
    assert not asked(fake)


def test_what_an_adapter_was_trained_on_is_told(
    finished: RunFolder, fake: FakeVllm, tmp_path: Path
) -> None:
    fake.script = lambda prompt, name, index: f" Because.{LABEL} 50"
    config = read_config(finished)
    assert of_run(finished, fake, "--adapter", finished.adapter(2))["notes"] == []
    copied = shutil.copytree(finished.adapter(2), tmp_path / "copied")
    [note] = of_run(finished, fake, "--adapter", copied)["notes"]
    assert note.startswith(f"What adapter {copied} was trained on isn't known")

    command: list[object] = [
        "--table",
        config.table.path,
        "--test-size",
        30,
        "--seed",
        5,
        "--dtype",
        "float32",
    ]
    command += ["--model", config.model.path, "--adapter", finished.adapter(2), "--json"]
    out = tmp_path / "answers.parquet"
    result = call(fake, *command, "--out", out)
    assert result.exit_code == 0, result.output
    trained = {sample.molecule_id for sample in SampleStore(finished.samples).accepted(2)}
    known = {answer.molecule_id for answer in load_evaluation(out)} & trained
    assert known
    [note] = orjson.loads(result.stdout)["notes"]
    assert f"was trained on {len(known)} of the 30 test molecules" in note


def test_salts_of_what_an_adapter_was_trained_on_are_known_to_it(
    finished: RunFolder, fake: FakeVllm, tmp_path: Path
) -> None:
    config = read_config(finished)
    trained = {sample.smiles for sample in SampleStore(finished.samples).accepted(2)}
    rows = [f"{smiles}.Cl,50" for smiles in sorted(trained)] + ["CCCCCCCCCCCC,60"]
    table, out = tmp_path / "salts.csv", tmp_path / "answers.parquet"
    table.write_text("smiles,value\n" + "\n".join(rows) + "\n", "utf-8")
    command = ["--table", table, "--test-size", len(trained), "--dtype", "float32", "--out", out]
    command += ["--model", config.model.path, "--adapter", finished.adapter(2), "--json"]
    result = call(fake, *command)
    assert result.exit_code == 0, result.output
    num_known = sum(answer.smiles.endswith(".Cl") for answer in load_evaluation(out))
    assert num_known
    [note] = orjson.loads(result.stdout)["notes"]
    assert f"was trained on {num_known} of the {len(trained)} test molecules" in note


def test_a_round_needs_a_run(fake: FakeVllm, table: Path) -> None:
    result = call(fake, "--table", table, "--adapter", "last")
    assert result.exit_code == 2
    assert "'last' names a round, but no run is given" in result.output


def test_the_tables_show_all_that_was_found(finished: RunFolder, fake: FakeVllm) -> None:

    def script(prompt: str, name: str, index: int) -> str:
        value = f" {len(prompt) * (index + 1)}"
        return value if prompt.endswith(LABEL) else f" Because.{LABEL}{value}"

    fake.script = script
    where = ["--run", "test", "--runs", finished.path.parent, "--adapter", finished.adapter(2)]
    result = call(fake, *where, "--samples", 4, "--swap-reasons", "--against", 0)
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    for part in (
        "median of 4 answers, reasons of other molecules put in",
        "MAE, °C",
        "within 30 °C",
        "answered",
        "round 0, median of 4 answers, reasons of other molecules put in",
        "central interval of the answers",
        "Rank correlation of spread and error",
        "With another molecule's reason",
        "Sampling alone: with their own reason once more",
        "6 test molecules; brackets are bootstrap 95% intervals",
        "Scored as the training median",
    ):
        assert part in text, part
    assert "ask round-0002" in result.stderr
