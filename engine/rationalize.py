"""Molecules that fail are shown their value, and asked for a reason (STaR, section 3.2).

Such a sample is hinted. Its reason answers a prompt that states the value; its value answers the
ordinary prompt with that reason, in which the value is masked: a reason from which the adapter
itself can't tell the value again is no reason. What is stored is the ordinary prompt and both
answers put together, so that it is judged, re-scored and trained on as any other sample.
"""

import hashlib
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.prompts import render_hinted_prompt, render_prompt, value_label
from selfstudy_engine.data.schema import Completion, Exemplar, Molecule
from selfstudy_engine.engine.client import GenerationClient
from selfstudy_engine.engine.generation import GenerationRequest, SamplingParams
from selfstudy_engine.engine.sampler import Tally
from selfstudy_engine.engine.sampling import SampleQuestion, sampling_params
from selfstudy_engine.engine.told_values import mask_value

_END_OF_LINE = "\n"
"""A reason is one line, and so is a value."""
_VALUE_TOKENS = 16
logger = logging.getLogger(__name__)


def choose_hinted(
    pool: Sequence[Molecule],
    tallies: Mapping[str, Tally],
    hinted: Mapping[str, Tally],
    begun: Mapping[str, bool],
    *,
    round_index: int,
    config: RunConfig,
) -> list[Molecule]:
    """Return the molecules that a round shows their value, each once.

    They were asked about without a hint in rationalize.after_rounds rounds or more, and never was
    an answer accepted, hinted or not. Who was shown its value least often comes first, then who
    failed most often. Deterministic by seed.

    Args:
        pool: in a fixed order.
        tallies: of the ordinary samples of the rounds before this one.
        hinted: of their hinted samples.
        begun: molecules that this round has samples of already, and whether those are hinted; they
            stay what they are.
        round_index: 0, 1, ...
        config: of the run.
    """
    settings, generation = config.rationalize, config.generation
    num_molecules = generation.batch // generation.samples_per_molecule
    num_hinted = int(settings.fraction * generation.batch) // generation.samples_per_molecule
    kept = [molecule for molecule in pool if begun.get(molecule.molecule_id)]
    room = min(num_hinted - len(kept), num_molecules - len(begun))
    nothing = Tally()

    def is_failing(molecule_id: str) -> bool:
        tally, shown = tallies.get(molecule_id, nothing), hinted.get(molecule_id, nothing)
        return (
            tally.num_rounds >= settings.after_rounds
            and not tally.num_accepted
            and not shown.num_accepted
        )

    def turn(molecule: Molecule) -> tuple[int, int, bytes]:
        key = molecule.molecule_id
        shuffle = hashlib.sha256(f"{config.seed}:{round_index}:{key}".encode()).digest()
        return hinted.get(key, nothing).num_rounds, -tallies[key].num_rounds, shuffle

    failing = [m for m in pool if m.molecule_id not in begun and is_failing(m.molecule_id)]
    return kept + sorted(failing, key=turn)[: max(room, 0)]


def warn_if_idle(pool_size: int, config: RunConfig) -> None:
    """Say so where a run is too short for any molecule to fail often enough."""
    settings, generation = config.rationalize, config.generation
    num_molecules = generation.batch // generation.samples_per_molecule
    last_try = settings.after_rounds - 1  # in the earliest case
    if config.sampler.strategy == "balanced":  # the whole pool comes before any repeat
        last_try = max(last_try * pool_size // num_molecules, last_try)
    first = last_try + 1
    if first >= config.rounds:
        logger.warning(
            "--rationalize does nothing before round %d, and the run has %d: only then a molecule "
            "has failed in %d rounds; lower --rationalize-after, or raise --rounds or --batch",
            *(first, config.rounds, settings.after_rounds),
        )


async def rationalize(
    client: GenerationClient,
    model: str,
    molecules: Sequence[Molecule],
    config: RunConfig,
    exemplars: Sequence[Exemplar],
) -> AsyncIterator[tuple[SampleQuestion, list[Completion]]]:
    """Yield, for each molecule, its ordinary question and the hinted completions put together.

    Args:
        client: of the server that answers.
        model: the served name.
        molecules: to be shown their value.
        config: of the run.
        exemplars: of the run; prompts show the first of them, as many as the config says.

    Raises:
        ServerError: no usable answer after all retries.
    """
    shown = exemplars[: config.generation.prompt_exemplars]
    prop, template = config.property, config.generation.template
    label = f"\n{value_label(prop, template)}"
    questions = [
        SampleQuestion(molecule, render_prompt(molecule, prop, shown, template), hinted=True)
        for molecule in molecules
    ]
    hints = _hint_requests(questions, config, exemplars)
    reasons: dict[int, list[Completion]] = {}
    async for generated in client.generate(model, hints):
        reasons[generated.item] = generated.completions
    params = SamplingParams(
        n=1, temperature=0, top_p=1, max_tokens=_VALUE_TOKENS, stop=(_END_OF_LINE,)
    )

    def again() -> Iterator[GenerationRequest[tuple[int, int]]]:
        for number, completions in sorted(reasons.items()):
            question = questions[number]
            for index, completion in enumerate(completions):
                reason = mask_value(completion.text.strip(), question.molecule.value, prop)
                prompt = f"{question.prompt} {reason}{label}"
                yield GenerationRequest((number, index), prompt, params)

    values: dict[int, dict[int, Completion]] = {}
    async for value in client.generate(model, again()):
        number, index = value.item
        found = values.setdefault(number, {})
        found[index] = value.completions[0]
        if len(found) == len(reasons[number]):
            together = [
                _put_together(reason, label, found[place])
                for place, reason in enumerate(reasons[number])
            ]
            yield questions[number], together


def _hint_requests(
    questions: Sequence[SampleQuestion], config: RunConfig, exemplars: Sequence[Exemplar]
) -> Iterator[GenerationRequest[int]]:
    params = replace(sampling_params(config), stop=(_END_OF_LINE,))
    shown = exemplars[: config.rationalize.prompt_exemplars]
    for number, question in enumerate(questions):
        template = config.generation.template
        prompt = render_hinted_prompt(question.molecule, config.property, shown, template)
        yield GenerationRequest(number, prompt, params)


def _put_together(reason: Completion, label: str, value: Completion) -> Completion:
    cut_off = "length" in (reason.finish_reason, value.finish_reason)
    return Completion(
        text=f" {reason.text.strip()}{label}{value.text}",
        finish_reason="length" if cut_off else value.finish_reason,
        num_prompt_tokens=reason.num_prompt_tokens + value.num_prompt_tokens,
        num_output_tokens=reason.num_output_tokens + value.num_output_tokens,
    )
