"""A teacher explains molecules of the table; what it can't re-predict from its reason is dropped.

Works with any OpenAI-compatible server; the key comes from OPENAI_API_KEY.
"""

import asyncio
import logging
import os
import random
from collections.abc import Iterator, Sequence

import openai
from openai.types.chat import ChatCompletion

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.errors import ServerError, UsageError
from selfstudy_engine.data.prompts import read_number
from selfstudy_engine.data.properties import Property
from selfstudy_engine.data.schema import Exemplar, Molecule
from selfstudy_engine.data.task import load_table
from selfstudy_engine.engine.transport import MAX_RETRIES

_CANDIDATES_PER_EXEMPLAR = 4
"""Molecules that are tried for each exemplar before the teacher counts as unable."""
_TIMEOUT_SECONDS = 120
logger = logging.getLogger(__name__)


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
        yield generator.sample(members, min(len(members), _CANDIDATES_PER_EXEMPLAR))


async def teach(config: RunConfig) -> list[Exemplar]:
    """Have the teacher at config.teacher.url explain molecules of the run's table.

    Raises:
        UsageError: no key, or no band with a reason that stands the re-prediction.
        ServerError: the teacher doesn't answer.
    """
    teacher, prop = config.teacher, config.property
    key = os.environ.get("OPENAI_API_KEY")
    if not key:
        raise UsageError("the teacher needs a key; set OPENAI_API_KEY (any text if it takes none)")
    molecules = load_table(config).molecules
    async with openai.AsyncOpenAI(
        base_url=teacher.url, api_key=key, max_retries=MAX_RETRIES, timeout=_TIMEOUT_SECONDS
    ) as api:
        bands = candidates(molecules, teacher.num_exemplars, config.seed)
        found = await asyncio.gather(
            *(_explain_one_of(api, teacher.model, band, prop) for band in bands)
        )
    exemplars = [exemplar for exemplar in found if exemplar]
    if not exemplars:
        raise UsageError(
            f"teacher {teacher.model} at {teacher.url} gave no reason from which it could predict "
            f"the {prop.name} within {prop.tolerance:g} {prop.unit}; try another --teacher-model"
        )
    if len(exemplars) < teacher.num_exemplars:
        logger.warning(
            "the teacher explained %d of %d molecules", len(exemplars), teacher.num_exemplars
        )
    return exemplars


async def _explain_one_of(
    api: openai.AsyncOpenAI, model: str, band: Sequence[Molecule], prop: Property
) -> Exemplar | None:
    for molecule in band:
        subject = f"Name: {molecule.name}\nSMILES: {molecule.smiles}"
        reason = await _ask(
            api,
            model,
            f"{subject}\n{prop.question} {prop.format(molecule.value)}\n\nExplain in two short "
            f"sentences which features of the structure account for this {prop.name}. Name only "
            "what the SMILES shows. Don't state the value or any other number of that unit.",
        )
        reason = " ".join(reason.split())
        if not reason or prop.format(molecule.value) in reason:
            continue
        again = await _ask(
            api,
            model,
            f"{subject}\nReason: {reason}\n\nPredict the {prop.name} in {prop.unit}. Answer with "
            "one number only.",
        )
        value = read_number(again, prop)
        if value is not None and abs(value - molecule.value) <= prop.tolerance:
            return Exemplar(molecule, reason, model)
    return None


async def _ask(api: openai.AsyncOpenAI, model: str, question: str) -> str:
    try:
        answer = await api.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}]
        )
    except (openai.APIError, ValueError) as error:  # ValueError: a body that isn't JSON
        raise ServerError(f"teacher {model} at {api.base_url} failed: {error}") from error
    if not isinstance(answer, ChatCompletion):
        raise ServerError(f"teacher {model} at {api.base_url} answered {str(answer)[:100]!r}")
    return (answer.choices[0].message.content or "") if answer.choices else ""
