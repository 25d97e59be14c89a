"""How an evaluation looks in a terminal."""

from rich.console import Console

from selfstudy_engine.cli.console import figures_table, plain_console
from selfstudy_engine.data.calibration import Calibration
from selfstudy_engine.data.errors import counted
from selfstudy_engine.data.properties import Property
from selfstudy_engine.engine.examination import Examination, ReasonUse
from selfstudy_engine.engine.metric_texts import (
    cells_of,
    columns_of,
    ranged,
    ranged_share,
    signed,
    verdict_of,
)


def show_examination(found: Examination, prop: Property) -> None:
    """Print an evaluation's tables, and what a reader must know about them."""
    console = plain_console()
    table = figures_table("test set", "all molecules", title=f"{found.subject}, {found.asked}")
    for name, cell in zip(columns_of(prop), cells_of(found.metrics, prop), strict=True):
        table.add_row(name, cell)
    console.print(table)
    _show_comparisons(console, found, prop)
    if found.calibration:
        _show_calibration(console, found.calibration, prop)
    if found.reason_use:
        _show_reason_use(console, found.reason_use, prop)
    num_molecules = found.metrics.num_molecules
    console.print(
        f"{counted(num_molecules, 'test molecule')}; brackets are bootstrap 95% intervals. Scored "
        f"as the training median, {found.fallback:g} {prop.unit}, without a well-formed answer: "
        f"{found.num_unanswered}."
    )
    if found.num_left_out:
        console.print(
            f"{counted(found.num_left_out, 'test molecule')} can't be asked in this manner."
        )
    for note in found.notes:
        console.print(note)


def _show_comparisons(console: Console, found: Examination, prop: Property) -> None:
    table = figures_table("minus", f"MAE, {prop.unit}", f"RMSE, {prop.unit}", "", "molecules")
    for one in found.compared:
        mae, rmse = (
            signed(change, prop.error_decimals) for change in (one.change.mae, one.change.rmse)
        )
        verdict = verdict_of(one.change.mae)
        table.add_row(one.reference, mae, rmse, verdict, str(one.num_molecules))
    console.print(table)


def _show_calibration(console: Console, found: Calibration, prop: Property) -> None:
    unit, digits = prop.unit, prop.error_decimals
    coverage = figures_table(
        "central interval of the answers", "holds the truth", f"width, {unit}", "molecules"
    )
    for level in found.coverage:
        coverage.add_row(
            f"{level.nominal:.0%}",
            ranged_share(level.covered),
            f"{level.mean_width:.{digits}f}",
            str(level.num_molecules),
        )
    console.print(coverage)
    bands = figures_table(f"spread, {unit}", f"MAE, {unit}", "molecules")
    for band in found.bands:
        spread = f"{band.smallest:.{digits}f} to {band.largest:.{digits}f}"
        bands.add_row(spread, ranged(band.mae, digits), str(band.num_molecules))
    console.print(bands)
    if found.spearman:
        console.print(f"Rank correlation of spread and error: {ranged(found.spearman, 2)}.")


def _show_reason_use(console: Console, found: ReasonUse, prop: Property) -> None:
    reason, molecule = (
        ranged(interval, 2) if interval else "–"
        for interval in (found.follows_reason, found.follows_molecule)
    )
    console.print(
        f"With another molecule's reason {ranged_share(found.moved)} of the values change, "
        f"by {ranged(found.mean_move, prop.error_decimals)} {prop.unit} on average. Their rank "
        f"correlation is {reason} with what the reason's molecule had been given, and "
        f"{molecule} with what the molecule had been given with its own reason."
    )
    if found.moved_again and found.mean_move_again:
        console.print(
            f"Sampling alone: with their own reason once more {ranged_share(found.moved_again)} of "
            f"the values change, by {ranged(found.mean_move_again, prop.error_decimals)} "
            f"{prop.unit} on average."
        )
