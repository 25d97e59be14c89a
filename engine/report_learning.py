"""Facts of a run in, its learning curves out: the error over the rounds, and over the labels."""

import numpy as np

from selfstudy_engine.engine.report_charts import (
    MODEL,
    TEST,
    TRAIN,
    Figure,
    coloured,
    figure,
    form_of_errors,
    interval_row,
    interval_tooltip,
    labels_axis,
    lines_with_intervals,
    number,
    rounds_axis,
    series_of,
    text,
)
from selfstudy_engine.engine.report_facts import RunFacts


def learning_by_round(run: RunFacts) -> Figure:
    """Return the error on test and trained-on molecules over the rounds: the original's plot."""
    rows = []
    for facts in run.rounds:
        rows.append(interval_row(facts.index, TEST, facts.test_mae))
        if facts.train_mae:
            rows.append(interval_row(facts.index, TRAIN, facts.train_mae))
        for name, mae in run.baseline_maes(facts).items():
            rows.append(interval_row(facts.index, name, mae) | {"low": None, "high": None})
    title, form = f"MAE, {run.unit}", form_of_errors(run.prop)
    colour = coloured("series", series_of(rows))
    tooltip = [text("series", "series"), number("round", "round", "d")]
    tooltip += interval_tooltip(title, form)
    first, last = run.rounds[0].test_mae, run.last.test_mae
    return figure(
        "learning",
        "Error by round",
        lines_with_intervals(rounds_axis(), title, colour, tooltip),
        rows,
        alt_text=f"Mean absolute error by round: on the test set {first.value:{form}} {run.unit} "
        f"in round {run.rounds[0].index} and {last.value:{form}} in round {run.last.index}, beside "
        "that on molecules that were trained on and that of each baseline.",
        caption="Bars are bootstrap 95% intervals. Trained-on molecules had an answer near their "
        f"value: their error is small for that alone{_constant_on_trained(run)}. Baselines were "
        "fitted to the same labels, at rounds 0, 1, 2, 4, 8, ... and the last; the training median "
        "is the whole pool's.",
        subtitle=run.subtitle,
        columns={"series": "series", "round": "round", "value": title, "low": "from", "high": "to"},
    )


def _constant_on_trained(run: RunFacts) -> str:
    """Say what a guess gets that knows nothing but which molecules were chosen."""
    values = [answer.measured for answer in run.last.answers if answer.split == "train"]
    if not values:
        return ""
    best = float(np.mean(abs(np.array(values) - np.median(values))))
    return (
        f", and the best constant gets {best:.{run.prop.error_decimals}f} {run.unit} on those of "
        f"round {run.last.index}; only far below that it may be memorising"
    )


def learning_by_labels(run: RunFacts) -> Figure:
    """Return the test error against the number of labels used, beside the baselines'."""
    rows = []
    for facts in run.rounds:
        labels = facts.num_labelled
        rows.append(interval_row(facts.index, MODEL, facts.test_mae, labels=labels))
        for name, mae in run.baseline_maes(facts).items():
            rows.append(interval_row(facts.index, name, mae, labels=labels))
    title = f"test MAE, {run.unit}"
    tooltip = [text("series", "method"), number("labels", "labels", "d")]
    tooltip += interval_tooltip(title, form_of_errors(run.prop))
    return figure(
        "labels",
        "Error by labels used",
        lines_with_intervals(labels_axis(), title, coloured("series", series_of(rows)), tooltip),
        rows,
        alt_text="Test error against the number of labels, for the model and for each baseline "
        "that was fitted to the same labels.",
        caption="A label counts as used once its molecule was asked about, accepted or not, or is "
        "an exemplar's. All methods got the same labels and the same test set; the training median "
        "alone is the whole pool's.",
        subtitle=run.subtitle,
        columns={
            "series": "method",
            "labels": "labels",
            "value": title,
            "low": "from",
            "high": "to",
        },
    )
