"""Questions in, stored samples and answered evaluations out: one pass through the servers.

It knows neither which molecules are asked about nor which adapter answers.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.evaluations import Evaluated
from selfstudy_engine.data.schema import Completion, Exemplar, Molecule
from selfstudy_engine.data.store import SampleWriter
from selfstudy_engine.engine.accepted_texts import AcceptedTexts
from selfstudy_engine.engine.connection import Connection
from selfstudy_engine.engine.evaluate import EvaluationQuestion, to_median
from selfstudy_engine.engine.generation import GenerationRequest
from selfstudy_engine.engine.judges import Judges
from selfstudy_engine.engine.judging import Judging
from selfstudy_engine.engine.rationalize import rationalize
from selfstudy_engine.engine.reporter import Reporter
from selfstudy_engine.engine.sampling import Answered, SampleQuestion, to_samples
from selfstudy_engine.engine.verify import Judged, Rules


@dataclass(frozen=True, slots=True)
class Sampling:
    """Where a round's answers go, and how they are judged."""

    round_index: int
    writer: SampleWriter
    rules: Rules
    judges: Judges
    accepted: AcceptedTexts


class QuestionQueue:
    """One pass of questions through the server, and what came of it."""

    def __init__(
        self,
        config: RunConfig,
        connection: Connection,
        reporter: Reporter,
        sampling: Sampling | None,
    ) -> None:
        self._config = config
        self._connection = connection
        self._reporter = reporter
        self._sampling = sampling
        self._answers: dict[int, Evaluated] = {}
        self.num_evaluation_tokens = 0
        self.num_sample_tokens = 0
        self.num_samples = 0

    async def run(
        self,
        requests: Iterator[GenerationRequest[EvaluationQuestion | SampleQuestion]],
        num_evaluated: int,
        on_evaluated: Callable[[list[Evaluated]], None],
    ) -> None:
        """Ask everything; samples are stored once judged, an evaluation when it is complete."""
        served = self._connection.served
        async with self._judging(self._advance) as judging:
            async for generated in self._connection.client.generate(served.model, requests):
                question, completions = generated.item, generated.completions
                if isinstance(question, EvaluationQuestion):
                    answer = to_median(question, completions, self._config)
                    answer = replace(answer, adapter_sha256=served.adapter_sha256)
                    self._answers[question.index] = answer
                    self.num_evaluation_tokens += _num_tokens(completions)
                    if len(self._answers) == num_evaluated:
                        on_evaluated([self._answers[index] for index in range(num_evaluated)])
                    self._advance()
                else:
                    assert judging, "samples come with a place to go to"
                    await judging.add(Answered(question, completions, time.time()))

    async def run_hinted(self, molecules: list[Molecule], exemplars: list[Exemplar]) -> None:
        """Show molecules their value, and store what comes of it as it is judged."""
        num_before = self.num_samples
        found = rationalize(
            self._connection.client,
            self._connection.served.model,
            molecules,
            self._config,
            exemplars,
        )

        def advance() -> None:
            self._reporter.advance(self.num_samples - num_before)

        async with self._judging(advance) as judging:
            assert judging, "samples come with a place to go to"
            async for question, completions in found:
                await judging.add(Answered(question, completions, time.time()))

    def _advance(self) -> None:
        detail = ""
        if self._sampling:
            detail = f"{self._sampling.writer.num_durable_accepted} accepted and stored"
        self._reporter.advance(len(self._answers) + self.num_samples, detail)

    def _judging(self, advance: Callable[[], None]) -> AbstractAsyncContextManager[Judging | None]:
        """Return a pass of answers that become samples, if there is a place for them to go to."""
        sampling = self._sampling
        if sampling is None:
            return nullcontext()

        def settle(answered: Answered, judged: Sequence[Judged]) -> None:
            samples = to_samples(
                answered,
                judged,
                sampling.rules,
                sampling.accepted,
                run=self._config.name,
                round_index=sampling.round_index,
                served=self._connection.served,
            )
            self.num_samples += sampling.writer.add(list(samples))
            self.num_sample_tokens += _num_tokens(answered.completions)
            advance()

        return Judging(sampling.judges, sampling.rules, settle)


def _num_tokens(completions: Sequence[Completion]) -> int:
    return sum(completion.num_output_tokens for completion in completions)
