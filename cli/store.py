"""`selfstudy-engine store ls|show|export|rescore|label-errors|fsck|pull`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from selfstudy_engine.cli.options import (
    NewFile,
    apply,
    config_options,
    existing_run_options,
    reject_option,
)

if TYPE_CHECKING:
    from selfstudy_engine.data.config import RunConfig
    from selfstudy_engine.data.run_folder import RunFolder
    from selfstudy_engine.data.store import SampleStore

_FORMATS = ("jsonl", "parquet", "chat", "original")


@click.group()
def store() -> None:
    """List, show, export and re-score the samples of a run."""


@store.command()
@existing_run_options
def ls(run_name: str, runs: Path) -> None:
    """Count each round's samples; those in sight of the value apart, as hinted (accepted/all)."""
    from collections import Counter

    from rich.console import Console
    from rich.table import Table

    _, _, samples = _open(runs, run_name)
    table = Table()
    for column in ("round", "samples", "accepted", "acceptance", "hinted", "shards"):
        table.add_column(column, justify="right")
    for index in samples.rounds():
        counts = Counter(samples.rows(index, "hinted", "accepted"))
        accepted, hinted = counts[False, True], counts[True, True]
        total, num_hinted = accepted + counts[False, False], hinted + counts[True, False]
        share = f"{accepted / total:.1%}" if total else "-"
        of_hinted = f"{hinted}/{num_hinted}" if num_hinted else "-"
        num_shards = len(samples.shards(index))
        table.add_row(*map(str, (index, total, accepted, share, of_hinted, num_shards)))
    Console(width=80).print(table)


@store.command()
@existing_run_options
@click.option(
    "--round", "round_index", type=click.IntRange(min=0), help="Only this round [default: all]."
)
@click.option("--accepted/--rejected", default=None, help="Only these [default: all].")
@click.option(
    "--limit", type=click.IntRange(min=0), default=5, show_default=True, help="Samples at most."
)
def show(
    run_name: str, runs: Path, round_index: int | None, accepted: bool | None, limit: int
) -> None:
    """Print samples: molecule, reason, prediction and verdict."""
    import itertools

    import pyarrow.compute as pc

    from selfstudy_engine.data.errors import printable

    where = None if accepted is None else pc.field("accepted") == accepted
    _, _, samples = _open(runs, run_name)
    sample = None
    for sample in itertools.islice(samples.samples(round_index, where), limit):
        verdict = "accepted" if sample.accepted else f"rejected: {', '.join(sample.rejections)}"
        adapter = f"({sample.adapter}{', hinted' if sample.hinted else ''})"
        click.echo(f"round {sample.round}  {printable(sample.name)}  {sample.smiles}  {adapter}")
        click.echo(f"  reason:    {printable(sample.reason)}")
        click.echo(f"  predicted: {sample.predicted}  measured: {sample.measured}  {verdict}\n")
    if sample is None and limit:
        click.echo("no such samples; `selfstudy-engine store ls` lists the rounds", err=True)


@store.command()
@existing_run_options
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    default="jsonl",
    show_default=True,
    help="jsonl and parquet: every column; chat: messages for other trainers; original: "
    "name, smiles, Reason, mpC, Prediction(integer).",
)
@click.option(
    "--out",
    type=NewFile(),
    required=True,
    help="File to write; must not exist.",
)
@click.option(
    "--all/--accepted", "everything", default=False, help="All samples, or accepted ones [default]."
)
def export(run_name: str, runs: Path, form: str, out: Path, everything: bool) -> None:
    """Write samples into one file."""
    import pyarrow.compute as pc

    from selfstudy_engine.data.errors import UsageError, counted
    from selfstudy_engine.data.files import replacing
    from selfstudy_engine.data.store import write_parquet

    if out.exists():
        raise UsageError(f"{out} exists already; name another file with --out")
    _, config, samples = _open(runs, run_name)
    where = None if everything else pc.field("accepted")
    count = 0
    if form == "original" and config.property.decimals:
        raise UsageError(
            f"the original's form has whole numbers, and a {config.property.name} has "
            f"{counted(config.property.decimals, 'decimal')}; choose another --format"
        )
    batches = samples.batches(where=where)
    with replacing(out) as file:
        if form == "parquet":
            count = write_parquet(file, batches)
        else:
            for row in (row for batch in batches for row in batch.to_pylist()):
                record = _record(row, form, config)
                file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
                count += 1
    click.echo(f"{counted(count, 'sample')}: {out}")


@store.command()
@existing_run_options
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    help="Largest error that is accepted, in the property's unit [default: that of each sample].",
)
@reject_option
@config_options("verdict.max_accepted_per_molecule", "verdict.similarity")
@click.option(
    "--claims",
    "claims_again",
    is_flag=True,
    help="Check what all reasons claim anew; otherwise only where a text is read otherwise.",
)
def rescore(
    run_name: str, runs: Path, tolerance: float | None, claims_again: bool, **values: Any
) -> None:
    """Judge all samples anew, and show what would change; writes nothing."""
    from rich.console import Console
    from rich.table import Table

    from selfstudy_engine.engine.false_claims import stored_claims_check
    from selfstudy_engine.engine.rescore import rescore as rescore_store

    folder, config, samples = _open(runs, run_name)
    config = apply(config, values)
    check = stored_claims_check(folder, config.property)
    result = rescore_store(samples, config, tolerance, check, claims_again=claims_again)
    table = Table()
    for column in ("verdict", "before", "after", "gained", "lost"):
        table.add_column(column, justify="left" if column == "verdict" else "right")
    accepted = (result.num_accepted_before, result.num_accepted_after)
    changes = (result.num_newly_accepted, result.num_newly_rejected)
    table.add_row("accepted", *map(str, (*accepted, *changes)))
    for name, change in result.reasons.items():
        counts = (change.before, change.after, change.gained, change.lost)
        table.add_row(name, *map(str, counts))
    Console(width=80).print(table)
    limit = "each sample's own tolerance"
    if tolerance is not None:
        limit = f"a tolerance of {tolerance:g} {config.property.unit}"
    click.echo(f"{result.num_changed} of {result.num_samples} verdicts would change at {limit}")


@store.command("label-errors")
@existing_run_options
@click.option(
    "--min-answers",
    type=click.IntRange(min=2),
    default=4,
    show_default=True,
    help="Answers that a molecule must have, over all rounds.",
)
@click.option(
    "--min-agreeing",
    type=click.FloatRange(0, 1),
    default=0.8,
    show_default=True,
    help="Share of its answers that must lie within the tolerance of their median.",
)
@click.option(
    "--min-distance",
    type=click.FloatRange(min=0, min_open=True),
    help="Of that median from the measured value, in the property's unit "
    "[default: twice the tolerance].",
)
@click.option(
    "--limit", type=click.IntRange(min=0), default=20, show_default=True, help="Molecules at most."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for all of them.")
def label_errors(
    run_name: str,
    runs: Path,
    min_answers: int,
    min_agreeing: float,
    min_distance: float | None,
    limit: int,
    as_json: bool,
) -> None:
    """List molecules whose answers agree with one another, and not with the table.

    For a human to look up: the row may be wrong, or the model wrong in the same way each time.
    A row that is corrected in the table changes its samples' verdicts at the run's next start.
    """
    from dataclasses import asdict

    from selfstudy_engine.data.errors import counted, printable
    from selfstudy_engine.engine.label_errors import find_label_errors

    _, config, samples = _open(runs, run_name)
    prop = config.property
    found = find_label_errors(
        samples,
        tolerance=prop.tolerance,
        min_answers=min_answers,
        min_agreeing=min_agreeing,
        min_distance=2 * prop.tolerance if min_distance is None else min_distance,
    )
    if as_json:
        for suspect in found:
            click.echo(orjson.dumps(asdict(suspect) | {"distance": suspect.distance}).decode())
        return
    for suspect in found[:limit]:
        name = printable(suspect.name) or "(no name)"
        click.echo(f"{name}  {suspect.smiles}  {suspect.molecule_id}")
        click.echo(
            f"  table: {prop.format(suspect.measured)} {prop.unit}  answers: "
            f"{prop.format(suspect.median)} ({prop.format(suspect.distance, '+')}), "
            f"{suspect.agreeing:.0%} of {suspect.num_answers} agree, from "
            f"{counted(suspect.num_rounds, 'round')}"
        )
        click.echo(f"  reason: {printable(suspect.reason)}\n")
    click.echo(f"{counted(len(found), 'molecule')} whose answers agree far from the table")


@store.command()
@existing_run_options
@click.option("--repair", is_flag=True, help="Set damaged shards aside, keep each sample once.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
def fsck(run_name: str, runs: Path, repair: bool, as_json: bool) -> None:
    """Read every sample and adapter of a run, and say what isn't as it was written.

    Shards must be whole, each sample there once, in its own round, and made by an adapter that is
    there with the SHA-256 that the sample names. Exit code 1 if anything is left to repair.
    """
    from dataclasses import asdict

    from selfstudy_engine.data import audit
    from selfstudy_engine.data.errors import counted
    from selfstudy_engine.data.run_folder import find_run, read_config
    from selfstudy_engine.data.working_copy import held_run

    folder = find_run(runs, run_name)
    config = read_config(folder)  # another version's folder isn't ours to judge
    if repair:
        with held_run(folder.path, config.remote) as held:
            found, after = audit.repair(held)
    else:
        found = after = audit.audit(folder)
    left = after.problems
    if as_json:
        click.echo(orjson.dumps(asdict(found) | {"left": left}, default=str).decode())
    else:
        for problem in found.problems:
            done = "" if problem in left else " (repaired)"
            click.echo(f"{problem.path}: {problem.kind}: {problem.detail}{done}")
        for path in found.set_aside:
            click.echo(f"{path}: set aside before")
        for kind in sorted({problem.kind for problem in left}):
            click.echo(f"{kind}: {audit.REMEDIES[kind]}")
        click.echo(
            f"{counted(found.num_samples, 'sample')} in {counted(found.num_shards, 'shard')}, "
            f"{counted(found.num_adapters, 'adapter')} whole; "
            f"{counted(len(found.problems), 'problem')}, {len(left)} left"
        )
    if left:
        raise SystemExit(1)


@store.command()
@click.option("--remote", help="S3 address of all runs [default: that of the run's folder].")
@existing_run_options
def pull(run_name: str, runs: Path, remote: str | None) -> None:
    """Bring the folder of a run that is kept in S3 up to date, or make it.

    Every other command reads that folder. The run may go on elsewhere meanwhile; a `loop` needs no
    pull, as it begins with one.
    """
    from selfstudy_engine.data.errors import UsageError
    from selfstudy_engine.data.pull import pull as pull_run
    from selfstudy_engine.data.run_folder import RunFolder, find_run, read_config

    folder = RunFolder(runs / run_name)
    remote = remote or read_config(find_run(runs, run_name)).remote
    if remote is None:
        raise UsageError(f"run {folder.path} isn't kept in S3; name its address with --remote")
    pull_run(folder, remote)
    click.echo(f"Run: {folder.path.resolve()}")


def _open(runs: Path, run_name: str) -> "tuple[RunFolder, RunConfig, SampleStore]":
    from selfstudy_engine.data.run_folder import find_run, read_config
    from selfstudy_engine.data.store import SampleStore

    folder = find_run(runs, run_name)
    return folder, read_config(folder), SampleStore(folder.samples)


def _record(row: dict[str, Any], form: str, config: Any) -> dict[str, Any]:
    from selfstudy_engine.data.prompts import render_answer

    if form == "chat":
        template = config.generation.template
        answer = render_answer(row["reason"], row["measured"], config.property, template).strip()
        return {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": answer},
            ]
        }
    if form == "original":
        predicted = row["predicted"]
        return {
            "name": row["name"],
            "smiles": row["smiles"],
            "Reason": row["reason"],
            "mpC": row["measured"],
            "Prediction(integer)": None if predicted is None else round(predicted),
        }
    return row
