"""`selfstudy-engine train`."""

from pathlib import Path
from typing import Any

import click

from selfstudy_engine.cli.options import (
    BASE_OPTIONS,
    TRAIN_DEVICE_OPTIONS,
    TRAIN_OPTIONS,
    apply,
    config_options,
    resolve,
    run_options,
)
from selfstudy_engine.data.scratch import scratch_folder


@click.command()
@click.option("--run", "run_name", help="Train on the samples of this run, with its settings.")
@click.option(
    "--exemplars",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSONL file of exemplars [default: the run's, or the shipped ones].",
)
@click.option(
    "--samples",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of a store [default: the run's, or none].",
)
@click.option(
    "--before-round",
    type=click.IntRange(min=0),
    help="Only samples of rounds before this one [default: all].",
)
@click.option(
    "--previous",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Adapter to go on from [default: none, from the base model]. A run whose "
    'train.start_from is "previous" needs one.',
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the new adapter; must not exist.",
)
@BASE_OPTIONS
@TRAIN_OPTIONS
@config_options("seed")
@TRAIN_DEVICE_OPTIONS
@run_options
def train(
    run_name: str | None,
    exemplars: Path | None,
    samples: Path | None,
    before_round: int | None,
    previous: Path | None,
    out: Path,
    config_path: Path | None,
    runs: Path,
    **values: Any,
) -> None:
    """Train one adapter from a run's samples, or from files, in a process of its own."""

    from selfstudy_engine.data.config import override
    from selfstudy_engine.data.errors import UsageError
    from selfstudy_engine.data.exemplars import load_exemplars, shipped_exemplars
    from selfstudy_engine.data.run_folder import find_run, read_config
    from selfstudy_engine.engine.base_model import choose_base_model
    from selfstudy_engine.engine.launching import launch_of
    from selfstudy_engine.engine.training import TimeLimits, run_training

    if out.exists():
        raise UsageError(f"{out} exists already; name another folder with --out")
    if run_name:
        if config_path:
            raise UsageError("--run brings its own configuration; leave out --config")
        folder = find_run(runs, run_name)
        config = apply(read_config(folder), values)
        exemplars = exemplars or folder.exemplars()
        samples = samples or folder.samples
    else:
        config = resolve(config_path, values)
    # The run's servers may have had more GPUs than this machine has; none is started here.
    config = override(config, {"server.replicas": 1, "server.extra_args": []})
    launch = launch_of(config)
    if config.train.start_from == "previous" and not previous and before_round != 0:
        raise UsageError(
            'train.start_from is "previous": name the adapter to go on from with --previous, such '
            "as the run's of the round before"
        )
    if exemplars:
        load_exemplars(exemplars)
    elif not shipped_exemplars(config.property):
        raise UsageError(
            f"no exemplars are shipped for {config.property.name}; pass --exemplars FILE"
        )
    model, config = choose_base_model(config)
    with scratch_folder() as scratch:
        resolved = scratch / "run.toml"
        resolved.write_text(config.to_toml(), "utf-8")
        log = out.with_name(out.name + ".log")
        training = run_training(
            {
                "config": resolved,
                "model": model,
                "exemplars": exemplars.resolve() if exemplars else None,
                "samples": samples.resolve() if samples else None,
                "before_round": before_round,
                "previous": previous.resolve() if previous else None,
                "output": out.resolve(),
            },
            log,
            TimeLimits.of(config.train),
            lambda step, total: click.echo(f"step {step} of {total}"),
            launch,
        )
    click.echo(
        f"Adapter: {out} (loss {training['loss']:.3f}, {training['num_exemplars']} exemplars + "
        f"{training['num_samples']} samples, {training['num_tokens']} tokens in "
        f"{training['steps']} steps, {training['tokens_per_second']:.0f} tokens/s, "
        f"{training['seconds']:.0f} s; log: {log})"
    )
