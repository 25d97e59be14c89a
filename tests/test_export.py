"""`export`: folders to hand on, with cards that tools and people read."""

from dataclasses import replace
from pathlib import Path

import orjson
import pyarrow.dataset as ds
import pytest
from click.testing import CliRunner, Result
from conftest import MakeConfig
from huggingface_hub import DatasetCard, ModelCard
from peft import PeftModel
from transformers import AutoModelForCausalLM

from selfstudy_engine.cli.main import cli
from selfstudy_engine.data.adapters import read_adapter
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.schema import SAMPLE_SCHEMA
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.rounds import load_records, save_record


def export(folder: RunFolder, what: str, *arguments: object) -> Result:
    where = ["--run", "test", "--runs", str(folder.path.parent)]
    return CliRunner().invoke(cli, ["export", what, *where, *map(str, arguments)])


def test_an_adapter_comes_with_a_model_card(
    finished: RunFolder, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "adapter"
    result = export(finished, "adapter", "--out", out)
    assert result.exit_code == 0, result.output
    own, copied = read_adapter(finished.adapter(2)), read_adapter(out)
    assert copied.sha256 == own.sha256
    record = load_records(finished)[2]
    card = ModelCard.load(out / "README.md")
    assert card.data.library_name == "peft"
    assert card.data.base_model is None, "a folder of this machine is nothing to refer to"
    [mae, rmse] = card.data.eval_results
    assert (mae.metric_type, mae.metric_value) == ("mae", round(record.test_mae.value, 3))
    assert (rmse.metric_type, rmse.metric_value) == ("rmse", round(record.test_rmse.value, 3))
    assert f"and {record.num_trained_samples} accepted samples" in card.text
    assert own.sha256 in card.text
    assert "## On 6 held-out molecules" in card.text
    assert "So few molecules can't tell whether the adapter is better" in card.text
    assert "SMILES: CCO\nFacts: C2H6O" in card.text
    assert 'own line "Melting point (°C):" with' in card.text
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), out)
    assert model.peft_config["default"].r == own.rank


def test_a_card_tells_of_exemplars_in_its_prompts(
    copied: RunFolder, small_config: MakeConfig, tmp_path: Path
) -> None:
    copied.config.write_text(small_config(generation__prompt_exemplars=2).to_toml(), "utf-8")
    export(copied, "adapter", "--out", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "Before it stood the run's first 2 exemplars, each answered." in card


@pytest.mark.parametrize("reasons", ["drop", "shuffle"])
def test_a_card_tells_which_reasons_were_taught(
    copied: RunFolder, small_config: MakeConfig, tmp_path: Path, reasons: str
) -> None:
    copied.config.write_text(small_config(train__reasons=reasons).to_toml(), "utf-8")
    for what in ("adapter", "samples"):
        assert export(copied, what, "--out", tmp_path / what).exit_code == 0
    adapter, samples = (
        (tmp_path / what / "README.md").read_text("utf-8") for what in ("adapter", "samples")
    )
    if reasons == "shuffle":
        assert "taught the reasons of other molecules" in adapter
    else:
        assert " reason" not in adapter
        assert 'The answer is the line "Melting point (°C):" with the value.' in adapter
        assert "with a reason" not in samples


def test_a_card_tells_the_tolerances_that_its_samples_were_judged_by(
    copied: RunFolder, tmp_path: Path
) -> None:
    first, *_ = load_records(copied)
    save_record(copied, replace(first, tolerance=12.5))
    for index, told in ((0, "30 °C"), (1, "12.5 °C"), (2, "12.5 to 30 °C")):
        out = tmp_path / str(index)
        export(copied, "adapter", "--out", out, "--round", index)
        assert f"tolerance was {told}." in (out / "README.md").read_text("utf-8")


def test_a_round_is_chosen(finished: RunFolder, tmp_path: Path) -> None:
    assert export(finished, "adapter", "--out", tmp_path / "a", "--round", 0).exit_code == 0
    assert read_adapter(tmp_path / "a").sha256 == read_adapter(finished.adapter(0)).sha256
    missing = export(finished, "adapter", "--out", tmp_path / "b", "--round", 9)
    assert "choose --round from 0 to 2" in missing.output
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("everything", [False, True])
def test_samples_come_as_a_parquet_folder_with_a_card(
    finished: RunFolder, tmp_path: Path, everything: bool
) -> None:
    out = tmp_path / "samples"
    result = export(finished, "samples", "--out", out, *(["--all"] if everything else []))
    assert result.exit_code == 0, result.output
    stored = [s for s in SampleStore(finished.samples).samples() if s.accepted or everything]
    table = ds.dataset(out / "data").to_table()
    assert table.schema.names == SAMPLE_SCHEMA.names
    assert table["completion"].to_pylist() == [sample.completion for sample in stored]
    card = DatasetCard.load(out / "README.md")
    [config] = card.data.configs
    assert config["data_files"] == "data/*.parquet"
    assert sorted(path.name for path in out.glob(config["data_files"])) == [
        "round-0000.parquet",
        "round-0001.parquet",
    ]
    chosen = "accepted and rejected" if everything else "accepted"
    assert f"{len(stored)} {chosen} answers" in card.text
    assert "Where `hinted` is true, the reason was written in sight of the" in card.text


@pytest.mark.parametrize("what", ["adapter", "samples"])
def test_nothing_is_overwritten(finished: RunFolder, tmp_path: Path, what: str) -> None:
    (tmp_path / "kept.json").write_bytes(orjson.dumps(1))
    result = export(finished, what, "--out", tmp_path)
    assert result.exit_code == 2
    assert "exists already; name another folder with --out" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["kept.json"]
