"""Who gets what of whom, where nobody may get what is of its own kind."""

import random
from collections import Counter
from collections.abc import Sequence

from selfstudy_engine.data.errors import UsageError


def derange(groups: Sequence[str], seed: int) -> list[int]:
    """Return a permutation that moves every item to the place of one of another group.

    The groups are laid one after the other in a random order, and turned by the size of the
    largest: so no item meets its own group, whatever the sizes.

    Args:
        groups: the group of each item.
        seed: of the order.

    Returns:
        For each item the index of the item that it gets something of.

    Raises:
        UsageError: one group has more than half of the items, so there is no such permutation.

    >>> derange(["a", "a", "b", "b"], seed=0)
    [2, 3, 0, 1]
    """
    sizes = Counter(groups)
    generator = random.Random(seed)
    rank = {group: generator.random() for group in sizes}
    order = sorted(range(len(groups)), key=lambda item: rank[groups[item]])
    largest, turn = max(sizes.items(), key=lambda pair: pair[1], default=("", 0))
    if 2 * turn > len(groups):
        raise UsageError(
            f"{turn} of {len(groups)} texts are of one molecule ({largest}), more than half: they "
            "can't all get another molecule's; more molecules are needed"
        )
    givers = [0] * len(groups)
    for place, item in enumerate(order):
        givers[item] = order[(place + turn) % len(order)]
    return givers
