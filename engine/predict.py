"""Values, spreads and reasons for molecules, from an adapter that is served and proven."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfstudy_engine.data.adapters import Adapter
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.metrics import half_quartile_range
from selfstudy_engine.data.prompts import Answer, parse_completion, render_prompt
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.base_model import choose_base_model
from selfstudy_engine.engine.connection import Connection, open_connection
from selfstudy_engine.engine.evaluate import sampling_params
from selfstudy_engine.engine.generation import GenerationRequest


@dataclass(frozen=True, slots=True)
class Prediction:
    """What an adapter says about one molecule."""

    molecule: Molecule
    value: float | None
    """Median of the answers, in the property's unit; None where no answer had a value."""
    spread: float | None
    """Half the range between the answers' quartiles; None with fewer than two."""
    num_answers: int
    """Answers with a value."""
    reason: str
    """Of the answer nearest to the median."""


def summarize(molecule: Molecule, answers: Sequence[Answer]) -> Prediction:
    """Return the median answer and how far the answers lie apart.

    >>> molecule = Molecule("K", "", "C", 0.0)
    >>> prediction = summarize(molecule, [Answer("a", 10.0), Answer("b", 30.0), Answer("c", None)])
    >>> prediction.value, prediction.num_answers, prediction.reason
    (20.0, 2, 'a')
    """
    valued = [(answer.value, answer.reason) for answer in answers if answer.value is not None]
    if not valued:
        return Prediction(molecule, None, None, 0, answers[0].reason if answers else "")
    values = [value for value, _ in valued]
    median = statistics.median(values)
    _, reason = min(valued, key=lambda pair: abs(pair[0] - median))
    return Prediction(molecule, median, half_quartile_range(values), len(values), reason)


def predict(
    config: RunConfig,
    folder: RunFolder,
    adapter: Adapter,
    molecules: Sequence[Molecule],
    *,
    num_answers: int,
    log: Path,
    on_predicted: Callable[[Prediction], None],
    server_key: str = "",
) -> None:
    """Predict molecules with a run's adapter, through config.server.url or an own server.

    Args:
        config: the run's, with the server settings of this call.
        folder: of the run.
        adapter: of one of its rounds.
        molecules: their values are not used.
        num_answers: completions behind each median; 1 is the greedy answer.
        log: receives the output of an own server.
        on_predicted: given each prediction as it comes, in any order.
        server_key: API key of the server at config.server.url.

    Raises:
        SelfStudyError: no server that can be shown to answer from the adapter.
    """
    shown = load_exemplars(folder.exemplars())[: config.generation.prompt_exemplars]
    params = sampling_params(config.generation, num_answers)
    template = config.generation.template

    async def ask(connection: Connection) -> None:
        requests = (
            GenerationRequest(
                molecule, render_prompt(molecule, config.property, shown, template), params
            )
            for molecule in molecules
        )
        async for generated in connection.client.generate(connection.served.model, requests):
            answers = [
                parse_completion(each.text, config.property, template, is_cut_off=each.is_cut_off)
                for each in generated.completions
            ]
            on_predicted(summarize(generated.item, answers))

    model, config = choose_base_model(config)
    with open_connection(config, model, log, server_key) as connection:
        connection.connect()
        connection.swap_to(adapter)
        connection.run(ask(connection))
