"""Answers as models give them, made up: what servers that compute nothing say."""

import random
from typing import Any

_EFFECTS = (
    *("holds the molecule flat", "pairs up in the crystal", "packs densely", "adds polarity"),
    *("forms strong bonds between molecules", "leaves it flexible", "raises the lattice energy"),
    *("lowers it by about 20", "keeps neighbours apart", "adds weight", "stacks face to face"),
    *("makes turning harder", "weakens the packing", "compares with that of benzoic acid"),
)


def make_answer(generator: random.Random, prompt: str) -> str:
    """Return an answer as models give them: the prompt's facts as claims, and a value."""
    facts = prompt.rpartition("Facts: ")[2].partition("\n")[0].replace(";", ",").split(", ")
    chosen = generator.sample(facts, min(3, len(facts)))
    effects = generator.sample(_EFFECTS, len(chosen))
    reason = ", ".join(f"{fact} {effect}" for fact, effect in zip(chosen, effects, strict=True))
    return f" {reason}.\nMelting point (°C): {generator.randrange(250)}"


def cut_off(answer: dict[str, Any]) -> dict[str, Any]:
    """Return a server's answer with every completion ended by the token limit."""
    return answer | {"choices": [one | {"finish_reason": "length"} for one in answer["choices"]]}
