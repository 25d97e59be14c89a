"""Predictions that outlive the process which made them."""

from pathlib import Path

from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.predict import Prediction
from selfstudy_engine.engine.prediction_log import PredictionLog


def test_a_prediction_is_in_the_file_before_the_next_one_comes(tmp_path: Path) -> None:
    """A process that is killed meanwhile has no time to write what it holds."""
    path = tmp_path / "out.partial.jsonl"
    with PredictionLog(path, {"adapter": "a"}) as log:
        for number in range(1, 4):
            log.add(Prediction(Molecule("K", "", "C" * number, 0.0), 1.0, None, 1, "r"))
            assert len(path.read_bytes().splitlines()) == 1 + number
    with PredictionLog(path, {"adapter": "a"}) as log:
        assert [prediction.molecule.smiles for prediction in log.predictions] == ["C", "CC", "CCC"]
