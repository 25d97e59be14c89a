"""A table's rows in, the same rows with predictions out: in one call or in several."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from selfstudy_engine.data.adapters import read_adapter
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.molecules import to_molecule
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.evaluate import sampling_params
from selfstudy_engine.engine.predict import Prediction, predict
from selfstudy_engine.engine.prediction_log import PredictionLog
from selfstudy_engine.engine.prediction_rows import to_rows
from selfstudy_engine.engine.reporter import Progress
from selfstudy_engine.engine.subjects import finished_round


@dataclass(frozen=True, slots=True)
class PredictedRows:
    """Rows with the columns of a prediction."""

    rows: list[dict[str, Any]]
    forget: Callable[[], None]
    """Removes what a call that is cut off would go on from."""


def predict_rows(
    rows: Sequence[dict[str, Any]],
    folder: RunFolder,
    config: RunConfig,
    *,
    smiles_column: str,
    name_column: str | None,
    round_index: int | None,
    num_answers: int,
    partial: Path | None,
    progress: Progress,
    server_key: str = "",
) -> PredictedRows:
    """Predict the molecules of a table; one that occurs more than once is asked about once.

    Args:
        rows: of a table; no column is named as one of prediction_rows.COLUMNS.
        folder: of a run with a finished round.
        config: the run's, with the server settings of this call.
        smiles_column: of the rows.
        name_column: of the rows; None without one.
        round_index: whose adapter answers; None is the last one that passed (see `finished_round`).
        num_answers: behind each median; 1 is the greedy answer.
        partial: file that keeps predictions as they come, and is continued; None keeps none.
        progress: told of every phase.
        server_key: API key of the server at config.server.url.

    Raises:
        UsageError: no row has a readable SMILES, or `partial` is of another call.
        SelfStudyError: no adapter, or no server that can be shown to answer from it.
    """
    index = finished_round(folder, round_index)
    adapter = read_adapter(folder.adapter(index))
    asked = [_read(row, smiles_column, name_column) for row in rows]
    molecules = {_key(molecule): molecule for molecule in asked if molecule}
    if not molecules:
        raise UsageError(
            f"none of {len(rows)} SMILES can be parsed (first: {rows[0][smiles_column]!r})"
            if rows
            else "the table has no rows"
        )
    call = {
        "adapter": adapter.sha256,
        "property": config.property.name,
        "generation": config.generation.model_dump(include={"template", "prompt_exemplars"}),
        "sampling": asdict(sampling_params(config.generation, num_answers)),
    }
    found: dict[tuple[str, str], Prediction] = {}
    with PredictionLog(partial, call) if partial else nullcontext() as log:
        if log:
            found |= {_key(prediction.molecule): prediction for prediction in log.predictions}
        missing = [molecule for key, molecule in molecules.items() if key not in found]
        progress.phase(f"predict with {adapter.name}", len(molecules))

        def keep(prediction: Prediction) -> None:
            found[_key(prediction.molecule)] = prediction
            if log:
                log.add(prediction)
            progress.advance(len(found))

        if missing:
            predict(
                config,
                folder,
                adapter,
                missing,
                num_answers=num_answers,
                log=folder.logs / "predict-server.log",
                on_predicted=keep,
                server_key=server_key,
            )
    predictions = [found[_key(molecule)] if molecule else None for molecule in asked]
    added = to_rows(predictions, folder, config, before_round=index)
    return PredictedRows(
        [row | cells for row, cells in zip(rows, added, strict=True)],
        forget=lambda: partial.unlink(missing_ok=True) if partial else None,
    )


def _read(row: dict[str, Any], smiles_column: str, name_column: str | None) -> Molecule | None:
    name = str(row[name_column] or "").strip() if name_column else ""
    return to_molecule(str(row[smiles_column] or "").strip(), name)


def _key(molecule: Molecule) -> tuple[str, str]:
    """Return what a prompt says of a molecule."""
    return molecule.smiles, molecule.name
