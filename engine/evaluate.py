"""Ask the served adapter about molecules, greedily, for measuring only."""

from collections.abc import Callable, Sequence

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.evaluations import Evaluated
from selfstudy_engine.data.prompts import STOP, parse_completion, render_prompt
from selfstudy_engine.data.schema import Exemplar, Molecule
from selfstudy_engine.engine.canary import Served
from selfstudy_engine.engine.client import GenerationClient, SamplingParams


async def evaluate(
    client: GenerationClient,
    served: Served,
    molecules: Sequence[tuple[str, Molecule]],
    config: RunConfig,
    *,
    shown: Sequence[Exemplar],
    on_answer: Callable[[int], None] = lambda num_tokens: None,
) -> list[Evaluated]:
    """Return one greedy answer for each (split, molecule), in the order given.

    Args:
        client: of the server.
        served: proven by the canary.
        molecules: with the split that each belongs to ("test" or "train").
        config: of the run.
        shown: exemplars in the prompt.
        on_answer: called with each answer's output tokens.
    """
    prop = config.property
    params = SamplingParams(
        n=1, temperature=0, top_p=1, max_tokens=config.generation.max_tokens, stop=(STOP,)
    )
    prompts = (
        (index, render_prompt(molecule, prop, shown))
        for index, (_, molecule) in enumerate(molecules)
    )
    answers: list[Evaluated | None] = [None] * len(molecules)
    async for generated in client.generate(served.model, prompts, params):
        split, molecule = molecules[generated.item]
        [completion] = generated.completions
        answer = parse_completion(completion.text, prop)
        answers[generated.item] = Evaluated(
            split=split,
            molecule_id=molecule.molecule_id,
            name=molecule.name,
            smiles=molecule.smiles,
            measured=molecule.value,
            predicted=answer.value,
            reason=answer.reason,
            completion=completion.text,
        )
        on_answer(completion.num_output_tokens)
    return [answer for answer in answers if answer is not None]
