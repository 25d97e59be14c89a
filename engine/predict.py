"""Values, spreads and reasons for molecules, from an adapter that is served and proven."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfstudy_engine.data.adapters import Adapter, read_adapter
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.errors import AdapterError
from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.metrics import half_quartile_range
from selfstudy_engine.data.prompts import STOP, Answer, parse_completion, render_prompt
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.base_model import choose_base_model
from selfstudy_engine.engine.client import GenerationRequest, SamplingParams
from selfstudy_engine.engine.connection import Connection, open_connection
from selfstudy_engine.engine.rounds import load_records


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


def best_adapter(folder: RunFolder) -> Adapter:
    """Return the adapter with the lowest test MAE of a run.

    Raises:
        AdapterError: no round of the run is finished.
    """
    records = load_records(folder)
    if not records:
        raise AdapterError(
            f"run {folder.path} has no finished round yet; continue it with `selfstudy-engine loop`"
        )
    best = min(records, key=lambda record: record.test_mae.value)
    return read_adapter(folder.adapter(best.round))


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
    molecules: Sequence[Molecule],
    *,
    num_answers: int,
    log: Path,
    server_key: str = "",
    on_done: Callable[[int], None] = lambda done: None,
) -> list[Prediction]:
    """Predict molecules with a run's best adapter, through config.server.url or an own server.

    Args:
        config: the run's, with the server settings of this call.
        folder: of the run.
        molecules: their values are not used.
        num_answers: completions behind each median; 1 is the greedy answer.
        log: receives the output of an own server.
        server_key: API key of the server at config.server.url.
        on_done: called with the number of molecules done.

    Raises:
        SelfStudyError: no adapter, or no server that can be shown to answer from it.
    """
    adapter = best_adapter(folder)
    shown = load_exemplars(folder.exemplars())[: config.generation.prompt_exemplars]
    generation = config.generation
    params = SamplingParams(
        n=num_answers,
        temperature=0 if num_answers == 1 else generation.temperature,
        top_p=generation.top_p,
        max_tokens=generation.max_tokens,
        stop=(STOP,),
    )

    async def ask(connection: Connection) -> list[Prediction]:
        requests = (
            GenerationRequest(
                index,
                render_prompt(molecule, config.property, shown, generation.template),
                params,
            )
            for index, molecule in enumerate(molecules)
        )
        found: dict[int, Prediction] = {}
        model = connection.served.model
        async for generated in connection.client.generate(model, requests):
            texts = [completion.text for completion in generated.completions]
            answers = [
                parse_completion(text, config.property, generation.template) for text in texts
            ]
            found[generated.item] = summarize(molecules[generated.item], answers)
            on_done(len(found))
        return [found[index] for index in range(len(molecules))]

    model, config = choose_base_model(config)
    with open_connection(config, model, log, server_key) as connection:
        connection.connect()
        connection.swap_to(adapter)
        return connection.run(ask(connection))
