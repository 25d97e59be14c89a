"""Questions about molecules of the pool, and the samples that their answers become."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.prompts import STOP, render_prompt
from selfstudy_engine.data.schema import Completion, Exemplar, Molecule, Sample
from selfstudy_engine.engine.accepted_texts import AcceptedTexts
from selfstudy_engine.engine.canary import Served
from selfstudy_engine.engine.generation import GenerationRequest, SamplingParams
from selfstudy_engine.engine.verify import Rules, verify


@dataclass(frozen=True, slots=True)
class SampleQuestion:
    """A molecule of a round, and the prompt that asks about it."""

    molecule: Molecule
    prompt: str
    hinted: bool = False
    """See `Sample.hinted`."""


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
    molecules: Iterable[Molecule], config: RunConfig, shown: Sequence[Exemplar]
) -> Iterator[GenerationRequest[SampleQuestion]]:
    """Yield a request for n completions about each molecule."""
    params, generation = sampling_params(config), config.generation
    for molecule in molecules:
        prompt = render_prompt(molecule, config.property, shown, generation.template)
        yield GenerationRequest(SampleQuestion(molecule, prompt), prompt, params)


def to_samples(
    question: SampleQuestion,
    completions: Sequence[Completion],
    rules: Rules,
    accepted: AcceptedTexts,
    *,
    run: str,
    round_index: int,
    served: Served,
) -> Iterator[Sample]:
    """Yield the samples of one molecule's answers, each with its verdict and its adapter.

    Args:
        question: that was asked.
        completions: all answers to it.
        rules: to judge by.
        accepted: what the run has accepted so far; takes in what is accepted here.
        run: name of the run.
        round_index: round that the samples belong to.
        served: the adapter that answered.
    """
    molecule = question.molecule
    for index, completion in enumerate(completions):
        verdict = verify(completion, molecule, rules, accepted, hinted=question.hinted)
        if verdict.accepted:
            accepted.add(molecule.molecule_id, verdict.reason)
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
            created_at=time.time(),
            findings=verdict.findings,
            tolerance=verdict.tolerance,
            hinted=question.hinted,
        )
