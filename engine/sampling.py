"""Questions about molecules of the pool, and the samples that their answers become."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.prompts import STOP, render_prompt
from selfstudy_engine.data.schema import Completion, Exemplar, Molecule, Sample
from selfstudy_engine.engine.accepted_texts import AcceptedTexts
from selfstudy_engine.engine.canary import Served
from selfstudy_engine.engine.generation import GenerationRequest, SamplingParams
from selfstudy_engine.engine.prompts_ahead import FindPool, render_ahead
from selfstudy_engine.engine.verify import Judged, Rules, compare


@dataclass(frozen=True, slots=True)
class SampleQuestion:
    """A molecule of a round, and the prompt that asks about it."""

    molecule: Molecule
    prompt: str
    hinted: bool = False
    """See `Sample.hinted`."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A question with all its answers."""

    question: SampleQuestion
    completions: Sequence[Completion]
    arrived_at: float
    """Seconds since 1970 (UTC)."""


def sampling_params(config: RunConfig) -> SamplingParams:
    """Return how a loop draws its samples."""
    generation = config.generation
    return SamplingParams(
        n=generation.samples_per_molecule,
        temperature=generation.temperature,
        top_p=generation.top_p,
        max_tokens=generation.max_tokens,
        stop=(STOP,),
    )


def sample_requests(
    molecules: Iterable[Molecule],
    config: RunConfig,
    shown: Sequence[Exemplar],
    find_pool: FindPool,
) -> Iterator[GenerationRequest[SampleQuestion]]:
    """Yield a request for n completions about each molecule; prompts are rendered ahead."""
    params, generation = sampling_params(config), config.generation
    render = partial(
        render_prompt, prop=config.property, exemplars=shown, template=generation.template
    )
    for molecule, prompt in render_ahead(molecules, render, find_pool):
        yield GenerationRequest(SampleQuestion(molecule, prompt), prompt, params)


def to_samples(
    answered: Answered,
    judged: Sequence[Judged],
    rules: Rules,
    accepted: AcceptedTexts,
    *,
    run: str,
    round_index: int,
    served: Served,
) -> Iterator[Sample]:
    """Yield the samples of one molecule's answers, each with its verdict and its adapter.

    Args:
        answered: what was asked, and all answers to it.
        judged: what came of each answer alone.
        rules: by which they are held against what was accepted.
        accepted: what the run has accepted so far; takes in what is accepted here.
        run: name of the run.
        round_index: round that the samples belong to.
        served: the adapter that answered.
    """
    question, molecule = answered.question, answered.question.molecule
    for index, (completion, alone) in enumerate(zip(answered.completions, judged, strict=True)):
        verdict = compare(alone, molecule, rules, accepted)
        if verdict.accepted and alone.fingerprint:
            accepted.add(molecule.molecule_id, alone.fingerprint)
        yield Sample(
            run=run,
            round=round_index,
            molecule_id=molecule.molecule_id,
            sample_index=index,
            adapter=served.adapter,
            adapter_sha256=served.adapter_sha256,
            name=molecule.name,
            smiles=molecule.smiles,
            measured=molecule.value,
            prompt=question.prompt,
            completion=completion.text,
            finish_reason=completion.finish_reason,
            num_prompt_tokens=completion.num_prompt_tokens,
            num_output_tokens=completion.num_output_tokens,
            reason=verdict.reason,
            predicted=verdict.predicted,
            error=verdict.error,
            accepted=verdict.accepted,
            rejections=verdict.rejections,
            created_at=answered.arrived_at,
            findings=verdict.findings,
            tolerance=verdict.tolerance,
            hinted=question.hinted,
        )
