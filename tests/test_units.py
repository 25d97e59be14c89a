"""A property with decimals: what is printed of it has them, and one more where it is an error."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import MakeConfig, loop, small_molecules
from fake_vllm import FakeVllm
from rdkit.Chem import CanonSmiles
from samples import make_sample

from selfstudy_engine.cli.console import PlainReporter
from selfstudy_engine.cli.main import cli
from selfstudy_engine.data.metrics import measure, measure_change
from selfstudy_engine.data.properties import find_property
from selfstudy_engine.data.run_folder import RunFolder, read_config
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.ablation_table import to_markdown
from selfstudy_engine.engine.ablations import Ablated, AblationStudy
from selfstudy_engine.engine.rounds import RoundRecord

MEASURED = {CanonSmiles(smiles): (value - 95) / 25 for smiles, value in small_molecules()}
"""From -3.2 to 0 log mol/L."""
VALUE = r"[-−+]?\d+\.\d"
ERROR = rf"{VALUE}\d"
RANGED, SIGNED = rf"{ERROR} \[{ERROR}, {ERROR}\]", rf"{ERROR} \[95% {ERROR} to {ERROR}\]"


def answer(prompt: str, adapter: str, index: int) -> str:
    """Miss by a little; the last adapter by much, so that the gate has something to say."""
    smiles = re.findall(r"SMILES: (\S+)", prompt)[-1]
    value = MEASURED.get(CanonSmiles(smiles), -1.0) + index / 10
    value += 2 if adapter == "round-0001" else 0.3
    if prompt.endswith(":") and not prompt.endswith("Reason:"):
        return f" {value:.1f}"
    return f" Number {index} of {smiles}.\nAqueous solubility (log mol/L): {value:.1f}"


@dataclass(frozen=True)
class Soluble:
    """A run of log S, with what it said."""

    folder: RunFolder
    records: list[RoundRecord]
    log: str

    def call(self, *arguments: Any, fake: FakeVllm | None = None) -> str:
        where: list[Any] = ["--run", "test", "--runs", self.folder.path.parent]
        where += ["--server", fake.url] if fake else []
        key = {"SELFSTUDY_SERVER_KEY": fake.api_key if fake else ""}
        result = CliRunner().invoke(cli, [str(a) for a in (*arguments, *where)], env=key)
        assert result.exit_code == 0, result.output
        return result.stdout


class _Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += record.getMessage() + "\n"


@pytest.fixture(scope="module")
def soluble(tmp_path_factory: pytest.TempPathFactory, small_config: MakeConfig) -> Soluble:
    root = tmp_path_factory.mktemp("soluble")
    lines = [f"{smiles},{value}" for smiles, value in MEASURED.items()]
    (root / "table.csv").write_text("\n".join(["smiles,value", *lines]), "utf-8")
    config = small_config(
        property="aqueous_solubility",
        table__path=str(root / "table.csv"),
        table__test_size=20,
        gate=True,
        rounds=1,
    )
    logger, messages = logging.getLogger("selfstudy_engine.engine"), _Messages()
    logger.addHandler(messages)
    with FakeVllm() as fake:
        fake.script = answer
        records, _ = loop(config, root / "runs", fake)
    logger.removeHandler(messages)
    return Soluble(RunFolder(root / "runs" / "test"), records, messages.text)


@pytest.fixture
def fake_soluble(fake: FakeVllm) -> FakeVllm:
    fake.script = answer
    return fake


def test_a_loop_says_errors_with_two_decimals(
    soluble: Soluble, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(rf"MAE \+{ERROR} log mol/L \[95% \+{ERROR}, \+{ERROR}\]\): it is", soluble.log)
    reporter = PlainReporter(read_config(soluble.folder))
    reporter.finish_round(soluble.records[1])
    reporter.print_summary(soluble.records)
    shown = capsys.readouterr().out
    assert re.search(rf"round 1: test MAE {RANGED} log mol/L, answered", shown)
    assert len(re.findall(RANGED, shown)) == 1 + 2 * 2, "MAE and RMSE of both rounds"
    assert re.search(rf"Test MAE since round 0: {SIGNED} log mol/L: ", shown)
    assert re.search(rf"100% +{ERROR} +\S+\+\S+ *$", shown, re.M), "the train MAE"


def test_predictions_have_a_decimal(soluble: Soluble, fake_soluble: FakeVllm) -> None:
    asked = ["predict", "--smiles", "CCCBr", "--num-answers", 4]
    shown = soluble.call(*asked, fake=fake_soluble)
    assert re.match(rf"CCCBr: {VALUE} \+- 0\.\d log mol/L\n", shown)


def test_an_evaluation_has_its_errors_in_two_decimals(
    soluble: Soluble, fake_soluble: FakeVllm
) -> None:
    shown = soluble.call("evaluate", "--samples", 4, fake=fake_soluble)
    assert "within 0.23 log mol/L" in shown
    assert "within 0.7 log mol/L" in shown
    for name in ("MAE, log mol/L", "RMSE, log mol/L", "median error, log mol/L", "bias, log mol/L"):
        assert re.search(rf"{name} +{RANGED}", shown), name
    assert re.search(rf"always the training median +{SIGNED} +{SIGNED}", shown)
    assert re.search(rf"50% +\d+% \[\d+, \d+\] +{ERROR} ", shown), "an interval's width"
    assert re.search(rf"{ERROR} to {ERROR} +{RANGED}", shown), "a band of spreads"
    swapped = soluble.call("evaluate", "--swap-reasons", fake=fake_soluble)
    assert re.search(rf"change, by {RANGED} log mol/L on", " ".join(swapped.split()))


def test_the_card_of_an_adapter(soluble: Soluble, tmp_path: Path) -> None:
    soluble.call("export", "adapter", "--out", tmp_path / "adapter")
    card = (tmp_path / "adapter" / "README.md").read_text("utf-8")
    rows = re.findall(rf"^\| .*, log mol/L \| {ERROR} \| {ERROR} to {ERROR} \|$", card, re.M)
    assert len(rows) == 3


def test_molecules_whose_labels_may_be_wrong(soluble: Soluble, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "test")
    folder.path.mkdir()
    folder.config.write_bytes(soluble.folder.config.read_bytes())
    folder.identity.write_bytes(soluble.folder.identity.read_bytes())
    with SampleStore(folder.samples).writer(0) as writer:
        for index in range(4):
            given = {"measured": -4.0, "predicted": -1.27, "sample_index": index}
            writer.add([make_sample("FAR", **given)])
    shown = Soluble(folder, [], "").call("store", "label-errors")
    assert "table: -4.0 log mol/L  answers: -1.3 (+2.7), 100% of 4 agree" in shown


def test_a_table_is_described(soluble: Soluble) -> None:
    table = soluble.folder.path.parent.parent / "table.csv"
    given = ["--property", "aqueous_solubility", "--table", str(table), "--test-size", "6"]
    shown = CliRunner().invoke(cli, ["table", "describe", *given]).output
    assert len(re.findall(rf"mean {ERROR}, SD {ERROR}, ", shown)) == 3


def test_a_table_of_ablations() -> None:
    measured, predicted = np.array([-1.2, -2.3, -3.4]), np.array([-1.5, -2.0, -3.0])
    metrics = measure(measured, predicted, 0.0, 0.7)
    change = measure_change(predicted - measured, measured - predicted, 0.7)
    rows = [Ablated("", "", "", {}, metrics, against, None) for against in (None, change)]
    study = AblationStudy("test", "tiny", 1, 3, 6, 1, "log mol/L", 0.7, -1.23, rows, [])
    shown = to_markdown(study, find_property("aqueous_solubility"))
    assert len(re.findall(rf"\| {RANGED} \|", shown)) == 2
    assert len(re.findall(rf"\| {SIGNED} \|", shown)) == 1
    assert "within 0.7 log mol/L" in shown
