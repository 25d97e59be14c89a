"""The ablations of a finished run: the tiny model really trained, the fake server asked."""

import shutil
import sys
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner, Result
from conftest import QuietReporter
from fake_http import Request
from fake_vllm import FakeVllm
from samples import make_rejected, make_sample, write_adapter

from selfstudy_engine.cli.main import cli
from selfstudy_engine.data.adapters import read_adapter
from selfstudy_engine.data.config import load_config, override
from selfstudy_engine.data.errors import SelfStudyError
from selfstudy_engine.data.evaluations import load_evaluation, paired_difference
from selfstudy_engine.data.run_folder import RunFolder, read_config
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.data.task import split_of_run
from selfstudy_engine.engine.ablation_plan import Ablation, ablations_of
from selfstudy_engine.engine.ablation_table import to_json
from selfstudy_engine.engine.ablation_workshop import Workshop
from selfstudy_engine.engine.ablations import Ablated, AblationStudy, run_ablations
from selfstudy_engine.engine.corrections import judge_again
from selfstudy_engine.engine.rounds import load_records
from selfstudy_engine.engine.training import OnStep, TimeLimits

NEW = [
    "direct-answer",
    "direct-answer-as-many-steps",
    "shuffled-reasons",
    "label-predicted",
    "label-checked",
    "weights-balanced",
    "tolerance-alone",
]


def ablate(folder: RunFolder, fake: FakeVllm, *arguments: str) -> Result:
    where = ["--run", "test", "--runs", str(folder.path.parent), "--server", fake.url]
    environment = {"SELFSTUDY_SERVER_KEY": fake.api_key}
    return CliRunner().invoke(cli, ["ablate", *where, *arguments], env=environment)


def train_here(
    arguments: dict[str, Any], log: Path, limits: TimeLimits, on_step: OnStep, launch: object
) -> dict[str, Any]:
    """Train in this process: a process of its own loads torch anew for each adapter."""
    from selfstudy_engine.train.trainer import TrainingJob, train_adapter

    on_step(1, 4)
    return train_adapter(TrainingJob(**arguments | {"config": load_config(arguments["config"])}))


@dataclass(frozen=True)
class Studied:
    """A run with its ablations, and how they came about."""

    folder: RunFolder
    study: AblationStudy
    requests: list[Request]
    phases: list[str]

    @property
    def rows(self) -> dict[str, Ablated]:
        return {row.key: row for row in self.study.rows}


@pytest.fixture(scope="module")
def studied(finished: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Studied:
    root = tmp_path_factory.mktemp("ablated") / "test"
    folder = RunFolder(Path(shutil.copytree(finished.path, root)))
    reporter = QuietReporter()
    with FakeVllm() as fake:
        config = override(read_config(folder), {"server.url": fake.url})
        study = run_ablations(folder, config, reporter, fake.api_key, train=train_here)
        requests = list(fake.requests)
    return Studied(folder, study, requests, reporter.phases)


def test_other_verdicts_take_one_pass_over_the_runs_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each round's were looked for in all rounds."""
    folder = RunFolder(tmp_path / "test")
    for index in range(10):
        with SampleStore(folder.samples).writer(index) as writer:
            writer.add([make_sample("A", round=index), make_rejected("B", round=index)])

    def train(arguments: dict[str, Any], *rest: object) -> dict[str, Any]:
        assert SampleStore(arguments["samples"]).count(where=pc.field("accepted")) == 20
        write_adapter(arguments["output"], training={"num_samples": 20, "loss": 1.0})
        return {}

    config = load_config(None, {"rounds": 10})
    workshop = Workshop(folder, config, "model", QuietReporter(), train)
    num_read, read = 0, Path.read_bytes

    def count(path: Path) -> bytes:
        nonlocal num_read
        num_read += path.suffix == ".parquet" and folder.samples in path.parents
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", count)
    workshop.adapter(Ablation("alone", "", reject=frozenset({"out of tolerance"})))
    assert num_read == 10


def test_all_that_differs_from_how_the_run_trained_is_compared() -> None:
    def keys(**train: str) -> list[str]:
        config = load_config(None, {f"train.{key}": value for key, value in train.items()})
        return [ablation.key for ablation in ablations_of(config)]

    assert keys() == ["loop", "exemplars-only", *NEW]
    others = ["label-measured", "label-checked", "weights-balanced", "tolerance-alone"]
    assert keys(label="predicted", reasons="drop") == ["loop", "exemplars-only", *others]
    assert keys(reasons="shuffle")[2] == "own-reasons"
    assert keys(sample_weights="balanced")[-2] == "weights-equal"
    base, previous = (
        ablations_of(load_config(None, {"train.start_from": start}))[0]
        for start in ("base", "previous")
    )
    assert base.title == "as the loop did"
    assert "but from the base model" in previous.title
    assert base.key == previous.key
    for more in ([], ["withdrawn"]):  # which rejects in any case
        unchecked = load_config(None, {"verdict.reject": ["out of tolerance", "no value", *more]})
        assert "tolerance-alone" not in [ablation.key for ablation in ablations_of(unchecked)]


def test_each_is_trained_once_on_the_same_samples(studied: Studied) -> None:
    accepted = sum(record.num_accepted for record in load_records(studied.folder)[:2])
    place = studied.folder.ablations(2)
    assert sorted(path.name for path in (place / "adapters").iterdir()) == sorted(NEW)
    facts = {key: read_adapter(place / "adapters" / key).training for key in NEW}
    unchecked = facts.pop("tolerance-alone")
    assert {one["num_samples"] for one in facts.values()} == {accepted}
    assert studied.study.num_samples == accepted > 0
    choices = ("reasons", "label", "sample_weights")
    chosen = {key: tuple(one[choice] for choice in choices) for key, one in facts.items()}
    assert chosen == {
        "direct-answer": ("drop", "measured", "equal"),
        "direct-answer-as-many-steps": ("drop", "measured", "equal"),
        "shuffled-reasons": ("shuffle", "measured", "equal"),
        "label-predicted": ("keep", "predicted", "equal"),
        "label-checked": ("keep", "checked", "equal"),
        "weights-balanced": ("keep", "measured", "balanced"),
    }
    loop = read_adapter(studied.folder.adapter(2)).training
    assert facts["direct-answer"]["num_tokens"] < loop["num_tokens"]
    assert facts["direct-answer-as-many-steps"]["steps"] >= loop["steps"]
    assert "train: direct answer, no reason" in studied.phases
    near = [
        sample
        for sample in SampleStore(studied.folder.samples).samples()
        if sample.predicted is not None and abs(sample.predicted - sample.measured) <= 30
    ]
    assert unchecked["num_samples"] == len(near) >= accepted
    assert (unchecked["reasons"], unchecked["label"]) == ("keep", "measured")


def test_the_runs_own_adapters_and_answers_are_used_where_they_are_it(studied: Studied) -> None:
    rows, records = studied.rows, load_records(studied.folder)
    assert rows["loop"].adapter == str(studied.folder.adapter(2))
    assert rows["exemplars-only"].adapter == str(studied.folder.adapter(0))
    assert rows["loop"].metrics.mae == records[2].test_mae
    assert rows["exemplars-only"].metrics.mae == records[0].test_mae
    swapped = [
        Path(request.body["kwargs"]["adapter_folder"]).name
        for request in studied.requests
        if request.path == "/collective_rpc"
    ]
    place = studied.folder.ablations(2) / "adapters"
    weights = {key: read_adapter(place / key).sha256 for key in NEW}
    # This run rejects by the tolerance alone, and accepts evenly: three adapters are the same.
    changes = [key for before, key in pairwise(["", *NEW]) if weights.get(before) != weights[key]]
    assert swapped == changes
    assert len(changes) == len(NEW) - 2
    asked = [r for r in studied.requests if r.kind == "/v1/completions"]
    assert len(asked) == len(NEW) * studied.study.num_test
    assert {request.body["temperature"] for request in asked} == {0}


def test_all_are_compared_with_the_loop_pair_by_pair(studied: Studied) -> None:
    folder = studied.folder
    median = split_of_run(folder, read_config(folder)).median
    assert studied.study.fallback == median
    loop = load_evaluation(folder.evaluation(2))
    direct = load_evaluation(folder.ablations(2) / "evaluations" / "direct-answer.parquet")
    change = paired_difference(loop, direct, median)
    compared = studied.rows["direct-answer"].change
    assert compared
    assert compared.mae == change
    assert studied.rows["loop"].change is None
    guess = studied.rows["training-median"]
    errors = [abs(answer.measured - median) for answer in direct]
    assert guess.metrics.mae.value == pytest.approx(sum(errors) / len(errors))
    assert guess.metrics.answered.value == 0
    assert guess.false_claims is None
    shares = [studied.rows[key].false_claims for key in ("loop", "tolerance-alone")]
    assert all(share is not None and 0 <= share <= 1 for share in shares)


def test_nothing_is_made_again(studied: Studied, fake: FakeVllm) -> None:
    result = ablate(studied.folder, fake)
    assert result.exit_code == 0, result.output
    assert fake.requests == [], "no server is needed"
    assert "train:" not in result.stderr
    place = studied.folder.ablations(2)
    assert (place / "ablations.json").read_bytes() == to_json(studied.study)
    lines = (place / "ablations.md").read_text("utf-8").splitlines()
    assert "the training median" in lines[0]
    assert [line.split(" | ")[0] for line in lines[4:]] == [
        "| as the loop did",
        "| exemplars only",
        "| direct answer, no reason",
        "| direct answer, as many steps",
        "| reasons of other molecules",
        "| label: the model's own value",
        "| label: measured if the arithmetic allows it",
        "| values weigh as they were asked about",
        "| all answers within the tolerance",
        "| no model: the training median",
    ]
    assert "reasons of other molecules" in result.stdout


def test_what_is_missing_is_made(studied: Studied, fake: FakeVllm, tmp_path: Path) -> None:
    """By a process of its own; and answers of another adapter don't count."""
    folder = RunFolder(Path(shutil.copytree(studied.folder.path, tmp_path / "test")))
    place = folder.ablations(2)
    shutil.rmtree(place / "adapters" / "direct-answer")
    answers = place / "evaluations"
    (answers / "direct-answer.parquet").unlink()
    shutil.copy(answers / "label-predicted.parquet", answers / "shuffled-reasons.parquet")
    result = ablate(folder, fake, "--json")
    assert result.exit_code == 0, result.output
    assert "train: direct answer, no reason" in result.stderr
    assert read_adapter(place / "adapters" / "direct-answer").training["reasons"] == "drop"
    assert len(fake.generations) == 2 * studied.study.num_test
    found = {row["key"]: row["metrics"]["mae"] for row in orjson.loads(result.stdout)["rows"]}
    assert found == {key: asdict(row.metrics.mae) for key, row in studied.rows.items()}


def test_samples_that_have_changed_since_are_refused(
    studied: Studied, fake: FakeVllm, tmp_path: Path
) -> None:
    folder = RunFolder(Path(shutil.copytree(studied.folder.path, tmp_path / "test")))
    correct_a_value(folder)
    # The run's own, which know the value before, are left out; here they needn't be trained again.
    for key, index in (("loop", 2), ("exemplars-only", 0)):
        shutil.copytree(folder.adapter(index), folder.ablations(2) / "adapters" / key)
    result = ablate(folder, fake)
    assert result.exit_code == 2
    assert "move" in result.output
    assert "loop was trained on other samples" in " ".join(result.output.split())


def correct_a_value(folder: RunFolder) -> None:
    """Correct the value of an accepted molecule by so little that it stays accepted."""
    store, config = SampleStore(folder.samples), read_config(folder)
    sample = next(store.accepted())
    nearer = (sample.measured + (sample.predicted or 0.0)) / 2
    assert judge_again(store, {sample.molecule_id: nearer}, config)[0] == 0


def test_each_is_trained_from_several_seeds(
    studied: Studied, fake: FakeVllm, tmp_path: Path
) -> None:
    folder = RunFolder(Path(shutil.copytree(studied.folder.path, tmp_path / "test")))
    config = override(read_config(folder), {"server.url": fake.url})

    def run(number: int) -> AblationStudy:
        return run_ablations(
            folder,
            config,
            QuietReporter(),
            fake.api_key,
            repeats=number,
            only=["tolerance-alone"],
            train=train_here,
        )

    study = run(2)
    rows = {row.key: row for row in study.rows}
    both = {key: [key, f"{key}-seed-1"] for key in ("loop", "tolerance-alone")}
    there = ["loop", "exemplars-only", *NEW, "training-median"]
    assert list(rows) == [one for key in there for one in both.get(key, [key])]
    ways = ["loop", "loop-seed-1"]
    assert rows["loop"].metrics == studied.rows["loop"].metrics, "the run's own seed: nothing anew"
    first, second = (read_adapter(Path(rows[key].adapter)) for key in ways)
    assert first.sha256 != second.sha256
    assert first.training["num_samples"] == second.training["num_samples"]
    assert [path.name for path in (folder.ablations(2) / "samples").iterdir()] == [
        "tolerance-alone"
    ], "its answers are judged once, not for each seed"
    loop, unchecked, guess = study.repeated
    assert (loop.num_trainings, unchecked.num_trainings, guess.num_trainings) == (2, 2, 0)
    maes = [rows[key].metrics.mae.value for key in ways]
    assert loop.mae.value == pytest.approx(sum(maes) / 2)
    assert loop.spread == pytest.approx(abs(maes[0] - maes[1]) / 2**0.5)
    assert (loop.change, guess.spread) == (None, None)
    assert unchecked.change
    assert unchecked.change.value == pytest.approx(unchecked.mae.value - loop.mae.value)

    asked = len(fake.generations)
    result = ablate(folder, fake, "--repeats", "2", "--only", "tolerance-alone")
    assert result.exit_code == 0, result.output
    assert len(fake.generations) == asked
    assert "SD of trainings" in " ".join(result.stdout.split())
    text = (folder.ablations(2) / "ablations.md").read_text("utf-8")
    assert text.count("| as the loop did") == 3
    assert "Means of trainings from several seeds" in text


def test_a_table_holds_all_that_was_made_before(
    studied: Studied, fake: FakeVllm, tmp_path: Path
) -> None:
    """With --only it held that one alone, in the place of a table of all."""
    folder = RunFolder(Path(shutil.copytree(studied.folder.path, tmp_path / "test")))
    result = ablate(folder, fake, "--only", "direct-answer")
    assert result.exit_code == 0, result.output
    table = folder.ablations(2) / "ablations.json"
    assert table.read_bytes() == to_json(studied.study).replace(
        str(studied.folder.path).encode(), str(folder.path).encode()
    )

    answers = folder.ablations(2) / "evaluations"
    (answers / "label-checked.parquet").unlink()
    shutil.copy(answers / "label-predicted.parquet", answers / "shuffled-reasons.parquet")
    (folder.adapter(0) / "adapter_model.safetensors").write_bytes(b"damaged")
    (answers / "tolerance-alone.parquet").write_bytes(b"damaged")
    result = ablate(folder, fake, "--only", "direct-answer", "--json")
    assert result.exit_code == 0, result.output
    there = {row["key"] for row in orjson.loads(result.stdout)["rows"]}
    assert there == {"loop", *NEW[:2], "label-predicted", "weights-balanced", "training-median"}
    assert fake.requests == []


def test_only_takes_what_there_is(studied: Studied, fake: FakeVllm) -> None:
    result = ablate(studied.folder, fake, "--only", "direct")
    assert result.exit_code == 2
    shown = " ".join(result.output.split())
    assert "there is no ablation 'direct' of this run; there are loop, exemplars-only" in shown
    assert fake.requests == []


class TrainedError(Exception):
    """A training was asked for."""


def ask_for_training(folder: RunFolder) -> dict[str, Any]:
    """Begin the ablations; returns what the first training was to be."""
    found: dict[str, Any] = {}

    def train(arguments: dict[str, Any], *rest: object) -> dict[str, Any]:
        found.update(arguments)
        raise TrainedError

    config = override(read_config(folder), {"server.url": []})  # its own ended with the run
    with pytest.raises(TrainedError):
        run_ablations(folder, config, QuietReporter(), train=train)
    return found


def test_an_adapter_that_knows_a_corrected_value_as_it_was_isnt_compared_with(
    copied: RunFolder,
) -> None:
    correct_a_value(copied)
    asked = ask_for_training(copied)
    assert (asked["output"].name, asked["before_round"]) == ("loop", 2)


def test_an_adapter_that_was_removed_is_made_again(copied: RunFolder) -> None:
    shutil.rmtree(copied.adapter(0))
    asked = ask_for_training(copied)
    assert (asked["output"].name, asked["before_round"]) == ("exemplars-only", 0)


def test_withdrawn_rows_are_in_no_ablation(copied: RunFolder) -> None:
    store, config = SampleStore(copied.samples), read_config(copied)
    withdrawn = next(store.accepted()).molecule_id
    judge_again(store, {withdrawn: None}, config)
    [*_, ablation] = ablations_of(override(config, {"verdict.reject": ["no value", "truncated"]}))
    assert ablation.key == "tolerance-alone"

    def train(arguments: dict[str, Any], *rest: object) -> dict[str, Any]:
        assert withdrawn not in {
            s.molecule_id for s in SampleStore(arguments["samples"]).accepted()
        }
        raise TrainedError

    with pytest.raises(TrainedError):
        Workshop(copied, config, "", QuietReporter(), train).adapter(ablation)


@pytest.mark.parametrize(
    ("servers", "said"),
    [
        ({"server.url": "http://127.0.0.1:1"}, "no vLLM server answers at"),
        ({"server.url": [], "server.ray": "auto"}, "Ray, which isn't installed: pip install"),
        ({"server.url": [], "server.ray": "127.0.0.1:1"}, "can't connect to a Ray cluster at"),
    ],
    ids=["server", "ray", "cluster"],
)
def test_an_absent_server_is_noticed_before_a_training(
    copied: RunFolder, servers: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)  # importing it fails
    config = override(read_config(copied), servers)

    def train(*rest: object) -> dict[str, Any]:
        raise TrainedError

    with pytest.raises(SelfStudyError, match=said):
        run_ablations(copied, config, QuietReporter(), train=train)


def test_an_unfinished_run_is_refused(copied: RunFolder, fake: FakeVllm) -> None:
    lines = copied.metrics.read_bytes().splitlines(keepends=True)
    copied.metrics.write_bytes(b"".join(lines[:2]))
    result = ablate(copied, fake)
    assert result.exit_code == 2
    assert "has 1 of its 2 rounds" in result.output
    assert not copied.ablations(2).exists()
