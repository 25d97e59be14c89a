"""Facts of a run in, figures of what happened in its rounds out: samples, reasons, time."""

from typing import Any

import altair as alt
import numpy as np

from selfstudy_engine.data.metrics import Interval
from selfstudy_engine.engine.reason_quality import REASONS_COMPARED, CheckReason, false_share
from selfstudy_engine.engine.report_charts import (
    INK,
    Figure,
    Row,
    coloured,
    figure,
    interval_row,
    interval_tooltip,
    lines_with_intervals,
    number,
    plain_lines,
    rounds_axis,
    series_of,
    text,
)
from selfstudy_engine.engine.report_examples import reasons_of
from selfstudy_engine.engine.report_facts import REASONS_PER_ROUND, RunFacts

ACCEPTED, DISTINCT, KNOWN = "accepted samples", "distinct molecules", "distinct so far"
DIVERSITY = "distinct 4-grams"
FALSE, FALSE_ACCEPTED, JUDGED = "answers: false claim", "accepted: false claim", "accepted: judged"
_PHASES = {
    "wait": "server start",
    "train": "train",
    "swap": "swap",
    "evaluate": "evaluate",
    "generate": "generate",
}


def acceptance(run: RunFacts) -> Figure | None:
    """Return the acceptance rate over the rounds against that of the best constant guess."""
    rows: list[Row] = []
    largest, unit = run.prop.tolerance, run.unit
    for facts in run.rounds:
        record = facts.record
        if record.acceptance is None:
            continue
        passed = record.num_accepted + record.num_spare
        interval = wilson(passed, record.num_completions, record.independent_completions)
        rows.append(
            interval_row(
                record.round,
                "accepted",
                interval,
                chance=record.chance,
                tolerance=largest if record.tolerance is None else record.tolerance,
                completions=record.num_completions,
            )
        )
    if not rows:
        return None
    title = "share of completions"
    tooltip = [number("round", "round", "d"), *interval_tooltip("accepted", ".1%")]
    tooltip += [number("chance", "best constant guess", ".1%")]
    tooltip += [number("tolerance", f"tolerance, {unit}", ".4~g")]
    chart = lines_with_intervals(
        rounds_axis(), title, coloured("series", ["accepted"]), tooltip, ".0%"
    )
    rule = alt.Chart().mark_line(color=INK, strokeDash=[5, 4]).encode(x=rounds_axis(), y="chance:Q")
    first, last = rows[0], rows[-1]
    tolerance = f"the tolerance of {last['tolerance']:.4g} {unit}"
    if len({row["tolerance"] for row in rows}) > 1:
        tolerance = "each round's tolerance"
    return figure(
        "acceptance",
        "Acceptance against chance",
        alt.layer(rule, chart),
        rows,
        alt_text=f"Acceptance rate {first['value']:.0%} in round {first['round']} and "
        f"{last['value']:.0%} in round {last['round']}; a constant guess gets "
        f"{last['chance']:.0%}.",
        caption="The dashed line is what the best constant guess would get on the molecules that "
        f"the round asked about, at {tolerance}: acceptance near it is no skill. Answers that only "
        "texts accepted before kept out count as accepted here. Bars are Wilson 95% intervals; "
        "answers to one molecule are alike, and count for fewer than they are.",
        subtitle=run.subtitle,
        columns={
            "round": "round",
            "completions": "completions",
            "value": "accepted",
            "low": "from",
            "high": "to",
            "chance": "best constant guess",
            "tolerance": f"tolerance, {unit}",
        },
    )


def molecules(run: RunFacts) -> Figure | None:
    """Return accepted samples and how many distinct molecules they are of."""
    rows: list[Row] = []
    for facts in run.rounds:
        if not facts.record.num_completions:
            continue
        counts = {
            ACCEPTED: facts.record.num_accepted,
            DISTINCT: facts.record.num_distinct_accepted,
            KNOWN: facts.num_found,
        }
        rows += [
            {"round": facts.index, "series": name, "value": count} for name, count in counts.items()
        ]
    if not rows:
        return None
    tooltip = [text("series", "what"), number("round", "round", "d"), number("value", "n", "d")]
    colour = coloured("series", [ACCEPTED, DISTINCT, KNOWN])
    return figure(
        "molecules",
        "Accepted samples and molecules",
        plain_lines(rounds_axis(), "count", colour, tooltip),
        rows,
        alt_text="Accepted samples, the distinct molecules among them, and the distinct molecules "
        "accepted in all rounds so far, by round.",
        caption="Many samples of few molecules teach little: the distinct molecules count. "
        "Hinted samples are left out.",
        subtitle=run.subtitle,
        columns={"series": "what", "round": "round", "value": "n"},
    )


def reasons(run: RunFacts, check: CheckReason) -> Figure | None:
    """Return how varied the accepted reasons of each round are, and how many say false things."""
    rows: list[Row] = []

    def add(
        round_index: int, series: str, share: float, size: int, independent: float | None = None
    ) -> None:
        known = series != DIVERSITY
        interval = wilson(round(share * size), size, independent) if known else None
        rows.append(
            {
                "round": round_index,
                "series": series,
                "value": share,
                "low": interval.low if interval else None,
                "high": interval.high if interval else None,
                "reasons": size,
            }
        )

    for facts in run.rounds:
        record, accepted = facts.record, reasons_of(facts)
        if record.distinct_4grams is not None:
            add(facts.index, DIVERSITY, record.distinct_4grams, REASONS_COMPARED)
        if record.false_claims is not None and record.parsed is not None:
            num_parsed = round(record.parsed * record.num_completions)
            add(facts.index, FALSE, record.false_claims, num_parsed, record.independent_parsed)
        found = false_share(accepted, check)
        if found:
            add(facts.index, FALSE_ACCEPTED, found[0], len(accepted))
            add(facts.index, JUDGED, found[1], len(accepted))
    if not rows:
        return None
    names = series_of(rows)
    tooltip = [
        text("series", "what"),
        number("round", "round", "d"),
        number("value", "share", ".1%"),
    ]
    tooltip += [number("reasons", "reasons", "d")]
    return figure(
        "reasons",
        "Reasons: variety and truth",
        lines_with_intervals(rounds_axis(), "share", coloured("series", names), tooltip, ".0%"),
        rows,
        alt_text="By round, the share of distinct 4-grams in accepted reasons, and the share of "
        "reasons with a false claim.",
        caption=f"False claims are counted on all answers with a value, and on up to "
        f"{REASONS_PER_ROUND} accepted ones. Distinct 4-grams are counted on {REASONS_COMPARED} "
        "accepted reasons, so that rounds compare: where they fall, reasons become copies. Bars "
        "are Wilson 95% intervals; those of accepted ones take each reason for independent.",
        subtitle=run.subtitle,
        columns={"series": "what", "round": "round", "reasons": "reasons", "value": "share"},
    )


def time_spent(run: RunFacts) -> Figure:
    """Return where the time of each round went."""
    rows: list[Row] = []
    for facts in run.rounds:
        timing = facts.record.timing
        rows += [
            {
                "round": facts.index,
                "series": label,
                "value": getattr(timing, phase),
                "tokens_per_second": facts.record.output_tokens_per_second,
            }
            for phase, label in _PHASES.items()
        ]
    total = sum(row["value"] for row in rows)
    tooltip: list[Any] = [text("series", "phase"), number("round", "round", "d")]
    tooltip += [
        number("value", "seconds", ".1f"),
        number("tokens_per_second", "output tokens/s", ".0f"),
    ]
    chart = (
        alt.Chart()
        .mark_bar()
        .encode(
            x=alt.X("round:O", title="round", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("sum(value):Q", title="seconds"),
            color=coloured("series", list(_PHASES.values())),
            tooltip=tooltip,
        )
    )
    return figure(
        "time",
        "Where the time went",
        chart,
        rows,
        alt_text=f"Seconds spent in each round, by phase; {total:.0f} in all.",
        caption="Evaluating and generating share a queue: its time is shared out by output tokens. "
        "Of a round that was continued, the last call's time.",
        subtitle=run.subtitle,
        columns={
            "round": "round",
            "series": "phase",
            "value": "seconds",
            "tokens_per_second": "output tokens/s of generating",
        },
    )


def wilson(successes: int, trials: int, independent: float | None = None) -> Interval:
    """Return a share with its Wilson 95% interval (E. B. Wilson, JASA 22, 209, 1927).

    Args:
        successes: of the trials.
        trials: at least 1.
        independent: as many independent ones tell as much; None takes all for independent.

    >>> wilson(0, 10).low, round(wilson(0, 10).high, 3)
    (0.0, 0.278)
    """
    z = 1.959964
    share, n = successes / trials, independent or trials
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Interval(share, max(0.0, float(centre - half)), min(1.0, float(centre + half)))
