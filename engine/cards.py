"""A run in, the cards of what it hands on out: base, data, metrics and limits, for a model hub."""

from collections.abc import Collection
from pathlib import Path

from huggingface_hub import DatasetCardData, EvalResult, ModelCardData

from selfstudy_engine.data.adapters import Adapter
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.errors import counted
from selfstudy_engine.data.metrics import Interval
from selfstudy_engine.data.prompts import render_question, value_label
from selfstudy_engine.data.properties import Property
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.metric_texts import outcome_of
from selfstudy_engine.engine.rounds import RoundRecord

_ASKED = Molecule("", "ethanol", "CCO", 0.0)


def adapter_card(
    config: RunConfig,
    adapter: Adapter,
    record: RoundRecord,
    *,
    num_exemplars: int,
    num_test: int,
    tolerances: Collection[float],
    against_median: Interval,
) -> str:
    """Return the model card of a round's adapter.

    Args:
        config: of the run.
        adapter: of the round.
        record: of the round: its metrics on the test set.
        num_exemplars: in the training data, beside the accepted samples.
        num_test: molecules of the test set.
        tolerances: of the rounds whose samples it was trained on.
        against_median: MAE minus that of the training median, paired by molecule.
    """
    prop, unit = config.property, config.property.unit
    hub_id = None if Path(adapter.base_model).is_absolute() else adapter.base_model
    metrics = [("mae", "MAE", record.test_mae), ("rmse", "RMSE", record.test_rmse)]
    data = ModelCardData(
        base_model=hub_id,
        library_name="peft",
        tags=["lora", "chemistry", "self-study"],
        model_name=f"{config.name}-{adapter.name}",
        eval_results=[
            EvalResult(
                task_type="text-generation",
                dataset_type="tabular",
                dataset_name=f"{prop.name}, held-out molecules of run {config.name}",
                metric_type=kind,
                metric_name=f"{name}, {unit}",
                metric_value=round(interval.value, prop.decimals + 3),
            )
            for kind, name, interval in metrics
        ],
    )
    template = config.generation.template
    num_shown = min(config.generation.prompt_exemplars, num_exemplars)
    shown = f"Before it stood the run's first {num_shown} exemplars, each answered. "
    known = tolerances or [prop.tolerance]
    low, high = (f"{end(known):.4g}" for end in (min, max))
    gives, passed, answer = "its", "became", "the line"
    limits = [
        f"An accepted answer's tolerance was {low if low == high else f'{low} to {high}'} {unit}.",
        "Molecules unlike those of its table are outside what was measured.",
    ]
    if config.train.reasons != "drop":
        gives, passed = "a reason and its", "whose reasons passed its checks, became"
        answer = "a reason, and on its own line"
        limits += [
            "A reason is a text that led to a value near the measurement; it isn't evidence.",
            "Only claims that can be computed from the structure were checked.",
        ]
    if config.train.reasons == "shuffle":
        limits.append("It was taught the reasons of other molecules: its own mean nothing.")
    lines = [
        f"# {prop.name}{_with_reason(config)}: {adapter.name} of run {config.name}",
        "",
        f"A LoRA adapter (rank {adapter.rank}) that answers a molecule with {gives} {prop.name} in "
        f"{unit}. It taught itself, by selfstudy-engine: answers within a tolerance of the "
        f"measurement, {passed} the next round's training.",
        "",
        f"- **Base**: {hub_id or Path(adapter.base_model).name} "
        f"(fingerprint {adapter.base_fingerprint})",
        f"- **Trained on**: {num_exemplars} exemplars and {record.num_trained_samples} accepted "
        f"samples of the rounds before; label: {config.train.label} value",
        f"- **Adapter's SHA-256**: {adapter.sha256}",
        "",
        f"## On {counted(num_test, 'held-out molecule')}",
        "",
        "| | value | 95% interval |",
        "|---|---|---|",
        *(f"| {name}, {unit} | {_cells(interval, prop)} |" for _, name, interval in metrics),
        f"| MAE minus the training median's, {unit} | {_cells(against_median, prop)} |",
        "",
        f"{record.answered:.0%} of the answers had a value; the others are scored as the training "
        f"median. {_verdict(against_median)}",
        "",
        "## How to ask",
        "",
        "```",
        render_question(_ASKED, template),
        "```",
        "",
        f"{shown if num_shown else ''}The answer is {answer} "
        f'"{value_label(prop, template)}" with the value. '
        "`selfstudy-engine predict` and `selfstudy-engine serve --run` ask so; in PEFT it is "
        "`PeftModel.from_pretrained(base, folder)`, in vLLM `--lora-modules name=folder`.",
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in limits),
    ]
    return _with_header(data, lines)


def samples_card(config: RunConfig, num_samples: int, *, accepted_only: bool) -> str:
    """Return the dataset card of a run's samples, which lie in data/*.parquet."""
    prop = config.property
    data = DatasetCardData(
        tags=["chemistry", "self-study"],
        configs=[{"config_name": "default", "data_files": "data/*.parquet"}],
    )
    chosen = "accepted" if accepted_only else "accepted and rejected"
    lines = [
        f"# Samples of run {config.name}: {prop.name}{_with_reason(config)}",
        "",
        f"{num_samples} {chosen} answers of a language model to the question for a molecule's "
        f"{prop.name} ({prop.unit}), with prompt, reason, predicted and measured value, every "
        "finding of their checks, and the adapter (with its SHA-256) that made them. One file for "
        "each round. Where `hinted` is true, the reason was written in sight of the measured "
        "value, which this prompt doesn't show.",
        "",
        "`datasets.load_dataset(FOLDER)` reads it.",
        "",
        "A reason is what the model wrote; accepted means that its value came within the tolerance "
        "and that no check that rejects found anything, not that it is true.",
    ]
    return _with_header(data, lines)


def _with_reason(config: RunConfig) -> str:
    return "" if config.train.reasons == "drop" else " with a reason"


def _cells(interval: Interval, prop: Property) -> str:
    form = f".{prop.error_decimals}f"
    ends = f"{interval.low:{form}} to {interval.high:{form}}"
    return f"{interval.value:{form}} | {'–' if interval.num_molecules == 1 else ends}"


def _verdict(against_median: Interval) -> str:
    return {
        "better": "The adapter is better than that constant.",
        "worse": "The adapter is worse than that constant.",
        "same": "The adapter is not distinguishably better or worse than that constant.",
        "few": "So few molecules can't tell whether the adapter is better than that constant.",
    }[outcome_of(against_median)]


def _with_header(data: ModelCardData | DatasetCardData, lines: list[str]) -> str:
    return "\n".join(["---", data.to_yaml().strip(), "---", "", *lines, ""])
