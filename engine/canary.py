"""The canary: is the adapter that answers the one that was trained?

The training process wrote down the log-probabilities of fixed texts; the server must give the same.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from selfstudy_engine.data.adapters import MAX_PROBE_TOKENS, NUM_CONTINUED, Adapter
from selfstudy_engine.data.errors import SwapError, shown
from selfstudy_engine.data.schema import NO_ADAPTER
from selfstudy_engine.engine.server_client import ServerClient

_TOLERANCES = {"float32": 0.02, "float16": 0.05, "bfloat16": 0.1}
"""Mean difference of log-probability, trainer against server, that number formats explain."""
_LIKELY = -3.0
"""Log-probability, in nats, from which on a token is one that somebody expects."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """What answers now."""

    model: str
    """The name to ask for."""
    adapter: str = NO_ADAPTER
    adapter_sha256: str = ""
    merged: bool = False
    """Whether the adapter is in the weights: then no request knows of LoRA."""


@dataclass(frozen=True, slots=True)
class CanaryResult:
    """How far the server's log-probabilities are from what an adapter's training found."""

    distance: float
    """To the wanted adapter, in nats; see `distance`."""
    distance_to_base: float
    """The same to the base model."""


@dataclass(frozen=True, slots=True)
class _Engine:
    """Who answers the canary: of several engines behind one address (data parallelism) this one."""

    client: ServerClient
    model: str
    number: int | None
    """None where there is only one."""

    @property
    def where(self) -> str:
        """Its number, for a message."""
        return "" if self.number is None else f" (engine {self.number})"


@dataclass(frozen=True, slots=True)
class _Continuation:
    """The likeliest tokens after a text, and their log-probabilities."""

    token_ids: list[int]
    logprobs: list[float]


async def check_canary(
    client: ServerClient,
    served: Served,
    adapter: Adapter,
    dtype: str,
    *,
    before: Adapter | None = None,
    num_engines: int = 1,
) -> CanaryResult:
    """Prove that the server answers from `adapter`: its log-probabilities are the trainer's.

    First each probe is continued: its next token goes through the prefix cache and so shows a stale
    one. Then every token of it and of what followed is scored: the probe's must be as likely as the
    trainer found them, the others as likely as they were when decoded, which a GPU does by graphs
    that were recorded at the start. Each of several engines is asked for itself, as each has its
    own weights and its own cache.

    Args:
        client: of the server.
        served: what should answer.
        adapter: the same, with what its training found.
        dtype: that the server computes in.
        before: the adapter that answered until now; one round's may be near the next one's.
        num_engines: behind the address.

    Returns:
        What the engine found that is farthest from the trainer.

    Raises:
        SwapError: they aren't, or are nearer to the base model's, or far nearer to those of the
            adapter before.
    """
    numbers = range(num_engines) if num_engines > 1 else (None,)
    engines = [_Engine(client, served.model, number) for number in numbers]
    results = [await _check_engine(engine, served, adapter, dtype, before) for engine in engines]
    return max(results, key=lambda result: result.distance)


async def _check_engine(
    engine: _Engine, served: Served, adapter: Adapter, dtype: str, before: Adapter | None
) -> CanaryResult:
    tolerance = _TOLERANCES[dtype]
    texts = [probe.token_ids for probe in adapter.canary]
    continued = await asyncio.gather(*(_continue(engine, ids) for ids in texts))
    whole = [[*ids, *more.token_ids] for ids, more in zip(texts, continued, strict=True)]
    if served.merged:
        logprobs = await asyncio.gather(*(_score(engine, ids) for ids in whole))
    else:
        # Two that score prompts in one batch end vLLM 0.32's CPU engine when it runs with LoRA
        # (lora/ops/torch_ops/lora_ops.py, bgmv_shrink).
        logprobs = [await _score(engine, ids) for ids in whole]
    scored = [of_whole[:-NUM_CONTINUED] for of_whole in logprobs]
    result = CanaryResult(
        distance=distance(scored, [probe.adapter_logprobs for probe in adapter.canary]),
        distance_to_base=distance(scored, [probe.base_logprobs for probe in adapter.canary]),
    )
    next_distance = distance(
        [more.logprobs[:1] for more in continued],
        [[probe.next_logprob] for probe in adapter.canary],
    )
    decoded_distance = distance(
        [more.logprobs[1:] for more in continued],
        [of_whole[1 - NUM_CONTINUED :] for of_whole in logprobs],
    )
    if not result.distance <= min(tolerance, result.distance_to_base):
        raise SwapError(
            f"the server{engine.where} doesn't answer from adapter {adapter.name}: its "
            f"log-probabilities are "
            f"{result.distance:.3g} nats from the trainer's (allowed in {dtype}: {tolerance:g}) "
            f"and {result.distance_to_base:.3g} from the base model's"
        )
    if before and [probe.token_ids for probe in before.canary] == texts:
        to_before = distance(scored, [probe.adapter_logprobs for probe in before.canary])
        # Far: between two that are nearly the same, rounding may favour either.
        if to_before < result.distance / 2:
            raise SwapError(
                f"the server{engine.where} still answers from adapter {before.name}: its "
                f"log-probabilities are {to_before:.3g} nats from that one's, and "
                f"{result.distance:.3g} from those of {adapter.name}"
            )
    if not next_distance <= 2 * tolerance:
        raise SwapError(
            f"the server's{engine.where} next-token log-probabilities for adapter {adapter.name} "
            f"are {next_distance:.3g} nats from the trainer's (allowed: {2 * tolerance:g}) "
            "although those of whole texts agree: its prefix cache is stale"
        )
    if not decoded_distance <= 2 * tolerance:
        raise SwapError(
            f"the server{engine.where} decodes with other weights than those of adapter "
            f"{adapter.name}: log-probabilities of decoded tokens are {decoded_distance:.3g} nats "
            f"from those of the same tokens in a prompt (allowed: {2 * tolerance:g}); start the "
            "server with --compilation off"
        )
    logger.info(
        "canary of %s%s: %s, next token %.2g, decoded %.2g",
        *(adapter.name, engine.where, result, next_distance, decoded_distance),
    )
    return result


def distance(found: Sequence[Sequence[float]], expected: Sequence[Sequence[float]]) -> float:
    """Return the mean absolute difference of log-probabilities, in nats.

    Of the tokens that one side or the other finds likely, if there are any: where nobody expects a
    token, as in a molecule's SMILES, rounding alone makes ten times the difference (bfloat16: 0.2
    against 0.006 nats), and the more of those a text has, the less the whole would say.

    >>> distance([[-0.5, -9.0]], [[-0.25, -9.5]])
    0.25
    """
    pairs = [
        (a, b)
        for values, others in zip(found, expected, strict=True)
        for a, b in zip(values, others, strict=True)
    ]
    likely = [(a, b) for a, b in pairs if max(a, b) > _LIKELY]
    return fmean(abs(a - b) for a, b in likely or pairs)


async def _score(engine: _Engine, token_ids: list[int]) -> list[float]:
    """Return the log-probability of each token of a text after the first."""
    choice = await _ask(engine, token_ids, prompt_logprobs=0)
    try:
        entries = choice["prompt_logprobs"][1:]
        pairs = zip(token_ids[1:], entries, strict=True)
        return [float(entry[str(token)]["logprob"]) for token, entry in pairs]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise SwapError("the server gave no log-probabilities for the canary's texts") from error


async def _continue(engine: _Engine, token_ids: list[int]) -> _Continuation:
    """Return the likeliest tokens after a text."""
    choice = await _ask(
        engine,
        token_ids,
        logprobs=1,
        max_tokens=NUM_CONTINUED,
        ignore_eos=True,
        return_token_ids=True,
    )
    try:
        found = [int(token) for token in choice["token_ids"]]
        logprobs = [float(logprob) for logprob in choice["logprobs"]["token_logprobs"]]
    except (KeyError, TypeError, ValueError) as error:
        raise SwapError("the server gave no log-probability for the canary's next token") from error
    if not len(found) == len(logprobs) == NUM_CONTINUED:
        raise SwapError(
            f"the server continued the canary's text with {len(found)} tokens and {len(logprobs)} "
            f"log-probabilities, asked were {NUM_CONTINUED}"
        )
    return _Continuation(found, logprobs)


async def _ask(engine: _Engine, token_ids: list[int], *, max_tokens: int = 1, **extra: Any) -> Any:
    model = engine.model
    if engine.number is not None:
        extra["engine"] = engine.number
    answer = await engine.client.complete(
        model=model, prompt=token_ids, max_tokens=max_tokens, temperature=0, **extra
    )
    choices = answer.get("choices")
    if answer.get("model") != model or not isinstance(choices, list) or not choices:
        raise SwapError(
            f"the server answered the canary as model {shown(answer.get('model'))} with choices "
            f"{shown(choices)}, asked was {model!r}"
        )
    return choices[0]


async def warm_up(client: ServerClient, model: str) -> None:
    """Send what a canary sends, so that no swap pays for what the server does the first time."""
    text = list(range(1, MAX_PROBE_TOKENS + 1))
    any_engine = _Engine(client, model, None)
    await _continue(any_engine, text)
    await _score(any_engine, text)
