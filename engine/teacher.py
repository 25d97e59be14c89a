"""A teacher explains molecules of the table; only reasons that stand every check are kept.

Each molecule takes two questions: why it has its value, and what value follows from the reason
alone, without name, SMILES and value. In between, the reason is checked here.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from selfstudy_engine.data.adapters import base_fingerprint
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.errors import SelfStudyError, UsageError
from selfstudy_engine.data.exemplars import middle_first
from selfstudy_engine.data.properties import Property
from selfstudy_engine.data.schema import Exemplar, Molecule
from selfstudy_engine.data.task import load_table
from selfstudy_engine.engine.base_model import choose_base_model
from selfstudy_engine.engine.claim_text import read_text
from selfstudy_engine.engine.claims import check_claims
from selfstudy_engine.engine.connection import open_connection
from selfstudy_engine.engine.known_values import KnownValues
from selfstudy_engine.engine.masking import mask_reason
from selfstudy_engine.engine.reason_checks import is_boilerplate, leaks_answer
from selfstudy_engine.engine.teacher_cache import AnswerCache
from selfstudy_engine.engine.teacher_client import Teacher, TeacherClient
from selfstudy_engine.engine.teacher_texts import read_prediction, read_reason
from selfstudy_engine.engine.told_values import tells_value

CANDIDATES_PER_EXEMPLAR = 4
"""Molecules that are tried for each exemplar before the teacher counts as unable."""

Rejection = Literal[
    "truncated",
    "no reason",
    "boilerplate reason",
    "answer leaked",
    "false claim",
    "value of a named compound",
    "no value re-predicted",
    "re-prediction out of tolerance",
]
"""Why a reason isn't kept, in the order in which it is checked."""

OnDecided = Callable[[Molecule, Exemplar | Rejection], None]
"""Told of every molecule as soon as it is decided."""
_NO_KEY = "none-needed"
"""What a server is sent that takes no key."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lessons:
    """What a teacher gave, and what it took."""

    exemplars: list[Exemplar]
    """See `middle_first`."""
    rejections: Counter[Rejection]
    spent: str
    """Calls, tokens and cost of everything asked so far, in words."""
    num_known: int
    """Questions whose answer was known from an earlier call."""
    failure: SelfStudyError | None
    """What stopped it: the budget, a server that failed, or no reason that stood the checks."""


def candidates(
    molecules: Sequence[Molecule], num_wanted: int, seed: int
) -> Iterator[list[Molecule]]:
    """Yield, for each exemplar wanted, molecules of its band of values in a random order.

    Bands are quantiles, so that the exemplars span the whole range.
    """
    ordered = sorted(molecules, key=lambda molecule: molecule.value)
    num_wanted = min(num_wanted, len(ordered))
    generator = random.Random(seed)
    for band in range(num_wanted):
        low = band * len(ordered) // num_wanted
        high = (band + 1) * len(ordered) // num_wanted
        members = ordered[low:high]
        yield generator.sample(members, min(len(members), CANDIDATES_PER_EXEMPLAR))


def why_question(molecule: Molecule, prop: Property) -> str:
    """Return the question for a reason: molecule and value in, why so out."""
    words = " ".join(molecule.name.split())
    name = f"Name: {words}\n" if words else ""
    return (
        f"{name}SMILES: {molecule.smiles}\n{prop.question} {prop.format(molecule.value)}\n\n"
        "Explain in two short sentences which features of the structure account for this "
        f"{prop.name}, so that a reader who knows neither name nor SMILES could estimate it from "
        "your explanation alone. State only what the SMILES shows. Don't state the value, or any "
        "other number of that unit."
    )


def value_question(reason: str, molecule: Molecule, prop: Property) -> str:
    """Return the question for a value from a reason alone: name, SMILES and value are masked."""
    return (
        f"Of a compound this is said:\n{mask_reason(reason, molecule, prop)}\n\n"
        f"Predict its {prop.name} in {prop.unit}. Answer with one number only."
    )


def check_reason(
    reason: str, is_cut_off: bool, molecule: Molecule, prop: Property, known: KnownValues
) -> Rejection | None:
    """Return what is wrong with a teacher's reason before anything is predicted from it."""
    if is_cut_off or not reason:
        return "truncated" if is_cut_off else "no reason"
    if is_boilerplate(reason):
        return "boilerplate reason"
    value = molecule.value
    if leaks_answer(reason, value, prop) or tells_value(reason, value, prop):
        return "answer leaked"
    if any(claim.truth == "false" for claim in check_claims(reason, molecule, known)):
        return "false claim"
    if any(known.stated(read_text(reason))):  # right or wrong: that compound may be tested
        return "value of a named compound"
    return None


async def explain(
    client: TeacherClient, molecule: Molecule, prop: Property, known: KnownValues
) -> Exemplar | Rejection:
    """Have a molecule explained, and the explanation put to the test.

    Raises:
        ServerError: the teacher doesn't answer.
        BudgetError: asking could cost more than is allowed.
    """
    answer = await client.ask(why_question(molecule, prop))
    reason = read_reason(answer.text)
    rejection = check_reason(reason, not answer.is_whole, molecule, prop, known)
    if rejection:
        return rejection
    again = await client.ask(value_question(reason, molecule, prop))
    value = read_prediction(again.text, prop) if again.is_whole else None
    if value is None:
        return "no value re-predicted"
    if abs(value - molecule.value) > prop.tolerance:
        return "re-prediction out of tolerance"
    return Exemplar(molecule, reason, client.teacher.name)


async def teach(
    config: RunConfig,
    teacher: Teacher,
    answers: Path,
    on_decided: OnDecided = lambda molecule, outcome: None,
) -> Lessons:
    """Have a teacher explain molecules of the run's table.

    Args:
        config: table, property, seed, and how the teacher is asked.
        teacher: who is asked.
        answers: file that holds every answer; what it has already isn't asked again.
        on_decided: see `OnDecided`.

    Returns:
        What stood all checks. A failure is in it, beside what was kept until then.

    Raises:
        UsageError: the table can't be used, or the answers are in use.
    """
    molecules = load_table(config).molecules
    prop, settings = config.property, config.teacher
    # By name alone: some of them will be tested, and exemplars mustn't be sorted by their values.
    known = KnownValues.from_molecules((), prop, secret=molecules)
    rejections: Counter[Rejection] = Counter()

    # Each one in turn has both of its questions, so that what is spent makes whole exemplars.
    slots = asyncio.Semaphore(settings.concurrency)

    async def explain_one_of(client: TeacherClient, band: Sequence[Molecule]) -> Exemplar | None:
        async with slots:
            for molecule in band:
                outcome = await explain(client, molecule, prop, known)
                on_decided(molecule, outcome)
                if isinstance(outcome, Exemplar):
                    return outcome
                rejections[outcome] += 1
        return None

    with AnswerCache(answers) as cache:
        async with TeacherClient(teacher, settings, cache) as client:
            bands = candidates(molecules, settings.num_exemplars, config.seed)
            # What is in flight when one fails has been paid for: its answer is waited for.
            found = await asyncio.gather(
                *(explain_one_of(client, band) for band in bands), return_exceptions=True
            )
    failure: SelfStudyError | None = None
    for outcome in found:
        if isinstance(outcome, SelfStudyError):
            failure = failure or outcome
        elif isinstance(outcome, BaseException):
            raise outcome
    exemplars = middle_first(outcome for outcome in found if isinstance(outcome, Exemplar))
    if not exemplars and not failure:
        cut_off = rejections["truncated"]
        failure = UsageError(
            f"teacher {teacher.name} at {teacher.url} gave no reason that stands the checks "
            f"({describe_rejections(rejections)}); try another model, or a larger tolerance than "
            f"{prop.tolerance:g} {prop.unit}"
            + (f", or --teacher-max-tokens above {settings.max_tokens}" if cut_off else "")
        )
    return Lessons(exemplars, rejections, client.budget.describe(), client.num_known, failure)


def describe_rejections(rejections: Counter[Rejection]) -> str:
    """Return how many reasons were rejected, by name, the most frequent first."""
    return ", ".join(f"{name}: {count}" for name, count in rejections.most_common()) or "none"


def teach_locally(
    config: RunConfig,
    answers: Path,
    log: Path,
    server_key: str = "",
    on_decided: OnDecided = lambda molecule, outcome: None,
) -> Lessons:
    """Have the base model itself explain molecules, on a server of our own or a running one.

    Args:
        config: of the model and its server; config.server.url is a running one.
        answers: see `teach`.
        log: receives the output of a server that is started here.
        server_key: API key of a running one.
        on_decided: see `OnDecided`.

    Raises:
        SelfStudyError: as `teach`, or what keeps a server from answering.
    """
    model, config = choose_base_model(config)
    with open_connection(config, model, log, server_key) as connection:
        connection.connect()
        endpoint = connection.endpoint
        teacher = Teacher(
            url=f"{endpoint.url}/v1",
            model=connection.served.model,
            api_key=endpoint.api_key or _NO_KEY,
            # The port of our own server is another one each time.
            identity="" if config.server.url else f"own server, {base_fingerprint(model)}",
        )
        return connection.run(teach(config, teacher, answers, on_decided))
