"""Questions about molecules that only measure an adapter: greedy, one answer each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.evaluations import Evaluated
from selfstudy_engine.data.prompts import STOP, parse_completion, render_prompt
from selfstudy_engine.data.schema import Completion, Exemplar, Molecule
from selfstudy_engine.engine.client import GenerationRequest, SamplingParams


@dataclass(frozen=True, slots=True)
class EvaluationQuestion:
    """A molecule of an evaluation."""

    index: int
    """Its place among the evaluation's answers."""
    split: str
    """"test" or "train"."""
    molecule: Molecule


def evaluation_requests(
    molecules: Sequence[tuple[str, Molecule]], config: RunConfig, shown: Sequence[Exemplar]
) -> Iterator[GenerationRequest[EvaluationQuestion]]:
    """Yield a request for each (split, molecule).

    Args:
        molecules: with the split that each belongs to.
        config: of the run.
        shown: exemplars in the prompt.
    """
    params = SamplingParams(
        n=1, temperature=0, top_p=1, max_tokens=config.generation.max_tokens, stop=(STOP,)
    )
    for index, (split, molecule) in enumerate(molecules):
        prompt = render_prompt(molecule, config.property, shown, config.generation.template)
        yield GenerationRequest(EvaluationQuestion(index, split, molecule), prompt, params)


def to_evaluated(
    question: EvaluationQuestion, completion: Completion, config: RunConfig
) -> Evaluated:
    """Return what an answer says."""
    answer = parse_completion(completion.text, config.property, config.generation.template)
    molecule = question.molecule
    return Evaluated(
        split=question.split,
        molecule_id=molecule.molecule_id,
        name=molecule.name,
        smiles=molecule.smiles,
        measured=molecule.value,
        predicted=answer.value,
        reason=answer.reason,
        completion=completion.text,
    )
