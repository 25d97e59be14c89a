"""Questions about molecules that only measure an adapter, and what their answers say.

A loop asks as the adapter was trained to be asked. The other manners find out what the answers
rest on.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.config_rounds import GenerationConfig
from selfstudy_engine.data.evaluations import Evaluated
from selfstudy_engine.data.prompts import (
    STOP,
    Hidden,
    parse_completion,
    render_prompt,
    render_reason,
    value_label,
)
from selfstudy_engine.data.schema import Completion, Exemplar, Molecule
from selfstudy_engine.engine.generation import GenerationRequest, SamplingParams


@dataclass(frozen=True, slots=True)
class Manner:
    """How an evaluation asks."""

    num_answers: int = 1
    """1 is the greedy answer; more are sampled as the loop samples, and their median counts."""
    hidden: Hidden | None = None
    """The line of the question that is left out."""
    reasons: Mapping[str, str] | None = None
    """By molecule id, the reason that the answer is made to begin with: only the value is
    generated. None leaves the reason to the adapter."""


GREEDY = Manner()
"""One answer: the likeliest text."""


def plain_manner(config: RunConfig) -> Manner:
    """Return how a run's loop evaluates."""
    return Manner(config.test_answers)


@dataclass(frozen=True, slots=True)
class EvaluationQuestion:
    """A molecule of an evaluation."""

    index: int
    """Its place among the evaluation's answers."""
    split: str
    """"test" or "train"."""
    molecule: Molecule
    begun: str = ""
    """What the answer was made to begin with; a completion goes on from there."""


def sampling_params(generation: GenerationConfig, num_answers: int) -> SamplingParams:
    """Return how a question is answered: once, greedily, or several times.

    Raises:
        UsageError: several times at temperature 0.
    """
    greedy = num_answers == 1
    return SamplingParams(
        n=num_answers,
        temperature=0 if greedy else generation.temperature,
        top_p=1 if greedy else generation.top_p,
        max_tokens=generation.max_tokens,
        stop=(STOP,),
    )


def evaluation_requests(
    molecules: Sequence[tuple[str, Molecule]],
    config: RunConfig,
    shown: Sequence[Exemplar],
    manner: Manner,
) -> Iterator[GenerationRequest[EvaluationQuestion]]:
    """Yield a request for each (split, molecule).

    Args:
        molecules: with the split that each belongs to.
        config: of the run.
        shown: exemplars in the prompt.
        manner: how to ask.
    """
    generation, prop = config.generation, config.property
    params = sampling_params(generation, manner.num_answers)
    for index, (split, molecule) in enumerate(molecules):
        prompt = render_prompt(molecule, prop, shown, generation.template, manner.hidden)
        begun = ""
        if manner.reasons is not None:
            reason = render_reason(manner.reasons[molecule.molecule_id])
            begun = f"{reason}\n{value_label(prop, generation.template)}"
        question = EvaluationQuestion(index, split, molecule, begun)
        yield GenerationRequest(question, prompt + begun, params)


def to_evaluated(
    question: EvaluationQuestion, completion: Completion, config: RunConfig
) -> Evaluated:
    """Return what an answer says."""
    text = question.begun + completion.text
    answer = parse_completion(
        text, config.property, config.generation.template, is_cut_off=completion.is_cut_off
    )
    molecule = question.molecule
    return Evaluated(
        split=question.split,
        molecule_id=molecule.molecule_id,
        name=molecule.name,
        smiles=molecule.smiles,
        measured=molecule.value,
        predicted=answer.value,
        reason=answer.reason,
        completion=text,
    )


def to_median(
    question: EvaluationQuestion, completions: Sequence[Completion], config: RunConfig
) -> Evaluated:
    """Return what several answers say: the median of their values, and the text nearest to it."""
    answers = [to_evaluated(question, completion, config) for completion in completions]
    valued = [(answer.predicted, answer) for answer in answers if answer.predicted is not None]
    if len(completions) == 1 or not valued:
        return replace(answers[0], num_answers=len(completions))
    values = tuple(value for value, _ in valued)
    median = statistics.median(values)
    _, nearest = min(valued, key=lambda pair: abs(pair[0] - median))
    return replace(nearest, predicted=median, values=values, num_answers=len(completions))
