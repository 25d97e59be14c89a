"""Completion -> verdict."""

import pytest

from selfstudy_engine.data.properties import find_property
from selfstudy_engine.data.schema import Completion, Molecule
from selfstudy_engine.engine.verify import verify

MELTING_POINT = find_property("melting_point")
VANILLIN = Molecule("K", "vanillin", "COc1cc(C=O)ccc1O", 80.0)


@pytest.mark.parametrize(
    ("text", "finish_reason", "error", "rejections"),
    [
        (" Flat.\nMelting point (°C): 80", "stop", 0.0, ()),
        (" Flat.\nMelting point (°C): 110", "stop", 30.0, ()),
        (" Flat.\nMelting point (°C): 50", "stop", -30.0, ()),
        (" Flat.\nMelting point (°C): 110.1", "stop", 30.1, ("out of tolerance",)),
        (" Flat.\nMelting point (°C): 49.9", "stop", -30.1, ("out of tolerance",)),
        (" Flat.\nMelting point (°C): 8", "length", -72.0, ("truncated", "out of tolerance")),
        (" Flat.\nMelting point (°C): 80", "length", 0.0, ("truncated",)),
        (" Flat.", "stop", None, ("no value",)),
        (" Flat.\nMelting point (°C): 80-82", "stop", None, ("no value",)),
        ("\nMelting point (°C): 80", "stop", 0.0, ("no reason",)),
        ("\nMelting point (°C): 200", "stop", 120.0, ("no reason", "out of tolerance")),
        ("", "length", None, ("truncated", "no value", "no reason")),
    ],
)
def test_every_reason_is_named(
    text: str, finish_reason: str, error: float | None, rejections: tuple[str, ...]
) -> None:
    verdict = verify(Completion(text, finish_reason, 10, 10), VANILLIN, MELTING_POINT)
    assert verdict.rejections == rejections
    assert verdict.accepted is (not rejections)
    assert verdict.error == (None if error is None else pytest.approx(error))
    assert verdict.predicted == (None if error is None else pytest.approx(80.0 + error))


def test_the_propertys_tolerance_decides() -> None:
    strict = MELTING_POINT.model_copy(update={"tolerance": 0.5})
    completion = Completion(" Flat.\nMelting point (°C): 81", "stop", 1, 1)
    assert verify(completion, VANILLIN, MELTING_POINT).accepted
    assert verify(completion, VANILLIN, strict).rejections == ("out of tolerance",)
    assert verify(completion, VANILLIN, strict).reason == "Flat."
