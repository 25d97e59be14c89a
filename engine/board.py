"""Subjects and a test set in, examinations out: who is asked what, and compared with what."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from selfstudy_engine.data.calibration import calibrate
from selfstudy_engine.data.derangement import derange
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.evaluations import Evaluated, compute_metrics, paired_change
from selfstudy_engine.data.metrics import Floats, bootstrap, measure
from selfstudy_engine.data.properties import Property
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.data.splits import Split
from selfstudy_engine.engine.evaluate import GREEDY, Manner
from selfstudy_engine.engine.examination import Asking, Comparison, Examination, ReasonUse
from selfstudy_engine.engine.examiner import Examiner, kept_answers
from selfstudy_engine.engine.subjects import Subject


class Board:
    """Examines subjects on one test set.

    Args:
        examiner: asks.
        split: the test set, and the pool behind the fallback.
        prop: what is predicted.
        seed: of who gets whose reason.
        plain: how the run's loop asks.
    """

    def __init__(
        self, examiner: Examiner, split: Split, prop: Property, seed: int, plain: Asking
    ) -> None:
        self._examiner = examiner
        self._split = split
        self._prop = prop
        self._seed = seed
        self._plainly = plain
        self._plain: dict[str, list[Evaluated]] = {}

    def examine(
        self, subject: Subject, asking: Asking, against: Sequence[Subject] = ()
    ) -> Examination:
        """Evaluate a subject, and compare it with others that are asked in the same manner.

        Raises:
            UsageError: it can't be asked so.
            SelfStudyError: it can't be served.
        """
        answers, reason_use = self._answers(subject, asking)
        metrics = compute_metrics(answers, "test", self._split.median, self._prop.tolerance)
        assert metrics is not None  # `_answers` has at least one
        compared = [
            self._compare(f"{other.label}, {asking}", self._answers(other, asking)[0], answers)
            for other in against
        ]
        if asking != self._plainly:
            plain = self._plain_answers(subject)
            compared.append(self._compare(f"{subject.label}, {self._plainly}", plain, answers))
        guesses = [replace(answer, predicted=None) for answer in answers]
        compared.append(self._compare("always the training median", guesses, answers))
        calibration = None
        if asking.num_answers > 1:
            measured = np.array([answer.measured for answer in answers])
            values = [answer.values for answer in answers]
            calibration = calibrate(measured, values, asking.num_answers)
        return Examination(
            subject=subject.label,
            asked=str(asking),
            metrics=metrics,
            num_unanswered=sum(answer.predicted is None for answer in answers),
            num_left_out=len(self._split.test) - len(answers),
            unit=self._prop.unit,
            tolerance=self._prop.tolerance,
            fallback=self._split.median,
            compared=compared,
            calibration=calibration,
            reason_use=reason_use,
            notes=[one.note for one in (subject, *against) if one.note],
            answers=answers,
        )

    def _plain_answers(self, subject: Subject) -> list[Evaluated]:
        if subject.label not in self._plain:
            found = None
            if subject.kept and subject.adapter:
                found = kept_answers(
                    subject.kept, self._split.test, subject.adapter, self._plainly.num_answers
                )
            if found is None:
                found = self._examiner.ask(subject.adapter, self._split.test)
            self._plain[subject.label] = found
        return self._plain[subject.label]

    def _answers(
        self, subject: Subject, asking: Asking
    ) -> tuple[list[Evaluated], ReasonUse | None]:
        if asking == self._plainly:
            return self._plain_answers(subject), None
        molecules = self._split.test
        if asking.hidden == "smiles":
            molecules = [molecule for molecule in molecules if molecule.name]
            if not molecules:
                raise UsageError("no molecule of the test set has a name to be asked by")
        manner = Manner(asking.num_answers, asking.hidden)
        if not asking.swap_reasons:
            return self._examiner.ask(subject.adapter, molecules, manner), None
        own = self._with_reasons(subject, molecules)
        givers = derange([answer.molecule_id for answer in own], self._seed)
        by_id = {molecule.molecule_id: molecule for molecule in molecules}
        asked = [by_id[answer.molecule_id] for answer in own]

        def answers_to(reasons: Sequence[str]) -> list[Evaluated]:
            by_id = {one.molecule_id: text for one, text in zip(asked, reasons, strict=True)}
            return self._examiner.ask(subject.adapter, asked, replace(manner, reasons=by_id))

        reasons = [answer.reason for answer in own]
        swapped = answers_to([reasons[giver] for giver in givers])
        again = None
        if manner != GREEDY or self._plainly != Asking():
            # Greedily, the plain answers are what the own reasons lead to.
            own = answers_to(reasons)
            again = answers_to(reasons) if manner.num_answers > 1 else None
        return swapped, self._reason_use(swapped, own, [own[giver] for giver in givers], again)

    def _with_reasons(self, subject: Subject, molecules: Sequence[Molecule]) -> list[Evaluated]:
        """Return the plain answers that have a reason and a value."""
        asked = {molecule.molecule_id for molecule in molecules}
        own = [
            answer
            for answer in self._plain_answers(subject)
            if answer.reason and answer.predicted is not None and answer.molecule_id in asked
        ]
        if len(own) < 2:
            raise UsageError(
                f"{subject.label} gave a reason and a value for {len(own)} of {len(asked)} "
                "molecules: there are no reasons to swap"
            )
        return own

    def _reason_use(
        self,
        swapped: list[Evaluated],
        own: list[Evaluated],
        giving: list[Evaluated],
        again: list[Evaluated] | None,
    ) -> ReasonUse:
        """Compare values of each molecule: after the swap, before it, the giver's, and once more.

        Raises:
            UsageError: none has a value after it; those that have none say nothing of the reason.
        """
        asked = (swapped, own, giving, again or own)
        values = np.stack([_predicted(answers) for answers in asked])
        after, before, given, repeated = values[:, np.isfinite(values).all(axis=0)]
        if not len(after):
            raise UsageError("with another molecule's reason no answer has a value to compare")
        from_own = measure(before, after, self._split.median, self._prop.tolerance)
        from_giver = measure(given, after, self._split.median, self._prop.tolerance)
        return ReasonUse(
            moved=bootstrap((after != before).astype(float)),
            mean_move=from_own.mae,
            follows_reason=from_giver.spearman,
            follows_molecule=from_own.spearman,
            moved_again=bootstrap((repeated != before).astype(float)) if again else None,
            mean_move_again=bootstrap(abs(repeated - before)) if again else None,
        )

    def _compare(
        self, reference: str, before: list[Evaluated], after: list[Evaluated]
    ) -> Comparison:
        """Compare on the molecules that both answered about."""
        ids = {one.molecule_id for one in before} & {one.molecule_id for one in after}
        if not ids:
            raise UsageError(f"{reference} was asked about none of these molecules")
        change = paired_change(before, after, self._split.median, self._prop.tolerance)
        return Comparison(reference, change, len(ids))


def _predicted(answers: Sequence[Evaluated]) -> Floats:
    return np.array([math.nan if a.predicted is None else a.predicted for a in answers])
