"""Which adapter answers: with --gate, one that is significantly worse than its predecessor doesn't.

Decided from the evaluations alone, so that a run that is continued comes to the same answer.
"""

import logging

from selfstudy_engine.data.evaluations import load_evaluation, paired_difference
from selfstudy_engine.data.run_folder import RunFolder

logger = logging.getLogger(__name__)


class Gate:
    """Holds each adapter against the last one that passed.

    Args:
        folder: of the run.
        enabled: False lets every adapter pass.
        fallback: what an unanswered molecule counts as predicted: the training median.
        unit: of the property.
    """

    def __init__(self, folder: RunFolder, enabled: bool, fallback: float, unit: str) -> None:
        self.enabled = enabled
        self._folder = folder
        self._fallback = fallback
        self._unit = unit
        self._passed = {0: 0}

    def answering(self, round_index: int) -> int:
        """Return the round whose adapter answers once this round's is evaluated.

        It is this round's, unless the whole 95% interval of the change of the test set's MAE,
        paired by molecule, is above 0.
        """
        if not self.enabled:
            return round_index
        for index in range(max(self._passed) + 1, round_index + 1):
            self._passed[index] = self._better(self._passed[index - 1], index)
        return self._passed[round_index]

    def _better(self, before: int, index: int) -> int:
        old, new = (load_evaluation(self._folder.evaluation(i)) for i in (before, index))
        change = paired_difference(old, new, self._fallback)
        if change.low <= 0:
            return index
        logger.warning(
            "adapter %s is worse on the test set than %s (MAE %+.1f %s [95%% %+.1f, %+.1f]): it is "
            "kept, and the other goes on answering (--gate)",
            *(self._folder.adapter(i).name for i in (index, before)),
            *(change.value, self._unit, change.low, change.high),
        )
        return before
