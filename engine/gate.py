"""Which adapter answers: with --gate, one that is significantly worse than its predecessor doesn't.

Decided once, from the evaluations; a round's record keeps it, whatever is corrected in the table
later: the samples and the adapters after it came from it.
"""

import logging

from selfstudy_engine.data.evaluations import load_evaluation, paired_difference
from selfstudy_engine.data.metrics import ENOUGH_FOR_A_VERDICT
from selfstudy_engine.data.properties import Property
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.engine.metric_texts import outcome_of
from selfstudy_engine.engine.rounds import load_records

logger = logging.getLogger(__name__)


class Gate:
    """Holds each adapter against the last one that passed.

    Args:
        folder: of the run.
        enabled: False lets every adapter pass.
        fallback: what an unanswered molecule counts as predicted: the training median.
        prop: what is predicted.
    """

    def __init__(self, folder: RunFolder, enabled: bool, fallback: float, prop: Property) -> None:
        self.enabled = enabled
        self._folder = folder
        self._fallback = fallback
        self._prop = prop
        self._answering: dict[int, int] = {}
        """By round; two threads may decide the same one, and decide alike."""
        for index, record in enumerate(load_records(folder)):
            if record.round != index:
                break
            self._answering[index] = index if record.passed else self._answering[index - 1]

    def answering(self, round_index: int) -> int:
        """Return the round whose adapter answers once this round's is evaluated.

        It is this round's, unless the whole 95% interval of the change of the test set's MAE,
        paired by molecule, is above 0. Too few molecules can't tell: then it is this round's.
        """
        if not self.enabled:
            return round_index
        decided = self._answering
        for index in range(round_index + 1):
            if index not in decided:
                decided[index] = self._better(decided[index - 1], index) if index else index
        return decided[round_index]

    def _better(self, before: int, index: int) -> int:
        old, new = (load_evaluation(self._folder.evaluation(i)) for i in (before, index))
        change = paired_difference(old, new, self._fallback)
        outcome = outcome_of(change)
        if outcome == "few":
            logger.warning(
                "adapter %s answers unjudged: --gate can't tell a change from noise on %d test "
                "molecules (at least %d are needed; --test-size)",
                *(self._folder.adapter(index).name, change.num_molecules, ENOUGH_FOR_A_VERDICT),
            )
        if outcome != "worse":
            return index
        digits = self._prop.error_decimals
        logger.warning(
            "adapter %s is worse on the test set than %s (MAE %+.*f %s [95%% %+.*f, %+.*f]): it is "
            "kept, and the other goes on answering (--gate)",
            *(self._folder.adapter(i).name for i in (index, before)),
            *(digits, change.value, self._prop.unit, digits, change.low, digits, change.high),
        )
        return before
