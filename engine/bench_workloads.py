"""What a benchmark asks, and what one pass over it came to.

Three workloads over the same molecules: a fixed length, the loop's own, and long prompts one by
one.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.errors import BenchmarkError
from selfstudy_engine.data.prompts import render_prompt
from selfstudy_engine.data.schema import Completion, Molecule
from selfstudy_engine.data.task import Task
from selfstudy_engine.engine.generation import SamplingParams
from selfstudy_engine.engine.sampling import sampling_params
from selfstudy_engine.engine.verify import Rules, verify

_LONG_PROMPT_EXEMPLARS = 6
"""As many as make a prompt of about 900 tokens."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Prompts and how they are to be completed."""

    name: str
    molecules: tuple[Molecule, ...]
    prompts: tuple[str, ...]
    """One for each molecule."""
    params: SamplingParams
    one_by_one: bool = False
    """Ask for the next only when the one before is answered: measures latency."""

    def first(self, num_prompts: int | None) -> "Workload":
        """Return the same with at most so many prompts (None: all of them)."""
        return replace(
            self, molecules=self.molecules[:num_prompts], prompts=self.prompts[:num_prompts]
        )

    def shortened(self, max_tokens: int) -> "Workload":
        """Return the same with shorter completions."""
        return replace(self, params=replace(self.params, max_tokens=max_tokens))


@dataclass(frozen=True, slots=True)
class Pass:
    """One contender's answers to one workload."""

    seconds: float
    completions: list[list[Completion]]
    """For each prompt, in order, its n completions."""
    idle_share: float | None = None
    """Share of the time in which nothing ran in the server; None where there is no server, or it
    was done before anybody looked."""
    prefix_hit_share: float | None = None
    """Share of the prompt tokens that the prefix cache held."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A pass in figures."""

    seconds: float
    num_prompts: int
    num_completions: int
    num_output_tokens: int
    num_prompt_tokens: int
    """Of all prompts, each counted once."""
    num_accepted_distinct: int
    """Accepted completions, the same text for the same molecule once, none beyond its limit."""
    idle_share: float | None
    """See `Pass`."""
    prefix_hit_share: float | None
    """See `Pass`."""

    @property
    def output_tokens_per_second(self) -> float:
        """Output tokens, not prompt tokens, per second."""
        return self.num_output_tokens / self.seconds

    @property
    def completions_per_second(self) -> float:
        """Completions per second."""
        return self.num_completions / self.seconds

    @property
    def accepted_distinct_per_second(self) -> float:
        """What a loop lives on."""
        return self.num_accepted_distinct / self.seconds

    @property
    def seconds_per_prompt(self) -> float:
        """With `one_by_one` and one token each: the time to the first token."""
        return self.seconds / self.num_prompts


def make_workloads(
    config: RunConfig,
    task: Task,
    *,
    num_prompts: int,
    num_real: int,
    max_tokens: int,
    num_long: int,
) -> list[Workload]:
    """Return the workloads of a benchmark: "fixed", "real" and "long".

    Args:
        config: of a loop; "real" samples as it does.
        task: its pool gives the molecules, its exemplars the long prompts.
        num_prompts: for "fixed".
        num_real: completions of "real", n for each prompt.
        max_tokens: output tokens of each "fixed" completion.
        num_long: prompts of "long".
    """
    generator = random.Random(config.seed)
    pool = task.split.pool
    num_asked = max(num_prompts, num_real // config.generation.samples_per_molecule)
    molecules = tuple(generator.sample(pool, min(num_asked, len(pool))))
    shown = task.exemplars[: config.generation.prompt_exemplars]
    template = config.generation.template
    prompts = tuple(render_prompt(m, config.property, shown, template) for m in molecules)
    fixed = SamplingParams(
        n=1, temperature=0, top_p=1, max_tokens=max_tokens, stop=(), ignore_eos=True
    )
    real = sampling_params(config)
    num_real_prompts = max(1, num_real // real.n)
    num_long = min(num_long, len(molecules))
    first_token = SamplingParams(
        n=1, temperature=0, top_p=1, max_tokens=1, stop=(), ignore_eos=True
    )
    return [
        Workload("fixed", molecules[:num_prompts], prompts[:num_prompts], fixed),
        Workload("real", molecules[:num_real_prompts], prompts[:num_real_prompts], real),
        Workload(
            "long",
            molecules[:num_long],
            tuple(_long_prompt(m, config, task, generator) for m in molecules[:num_long]),
            first_token,
            one_by_one=True,
        ),
    ]


def _long_prompt(
    molecule: Molecule, config: RunConfig, task: Task, generator: random.Random
) -> str:
    """Return a prompt whose exemplars stand in an order of its own: no cache knows its prefix."""
    repeated = task.exemplars * (-(-_LONG_PROMPT_EXEMPLARS // len(task.exemplars)))
    shown = generator.sample(repeated, _LONG_PROMPT_EXEMPLARS)
    return render_prompt(molecule, config.property, shown, config.generation.template)


def measure(workload: Workload, done: Pass, config: RunConfig) -> Measurement:
    """Count what a pass gave.

    Raises:
        BenchmarkError: it doesn't answer every prompt n times, or not at the length asked for.
    """
    n, limit = workload.params.n, workload.params.max_tokens
    counts = [len(completions) for completions in done.completions]
    if counts != [n] * len(workload.prompts):
        raise BenchmarkError(
            f"{workload.name}: asked were {len(workload.prompts)} x {n} completions, given {counts}"
        )
    flat = [completion for group in done.completions for completion in group]
    lengths = {completion.num_output_tokens for completion in flat}
    if workload.params.ignore_eos and lengths != {limit}:
        raise BenchmarkError(
            f"{workload.name}: each completion must have {limit} tokens, given {sorted(lengths)}"
        )
    return Measurement(
        seconds=done.seconds,
        num_prompts=len(workload.prompts),
        num_completions=len(flat),
        num_output_tokens=sum(completion.num_output_tokens for completion in flat),
        num_prompt_tokens=sum(group[0].num_prompt_tokens for group in done.completions),
        num_accepted_distinct=sum(
            _num_accepted_distinct(molecule, group, config)
            for molecule, group in zip(workload.molecules, done.completions, strict=True)
        ),
        idle_share=done.idle_share,
        prefix_hit_share=done.prefix_hit_share,
    )


def _num_accepted_distinct(
    molecule: Molecule, completions: Sequence[Completion], config: RunConfig
) -> int:
    rules = Rules.of(config)
    texts = {
        completion.text
        for completion in completions
        if verify(completion, molecule, rules).accepted
    }
    return min(len(texts), config.verdict.max_accepted_per_molecule or len(texts))
