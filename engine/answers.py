"""What a completion server answered -> completions, or an error that says why not.

An answer that can't be trusted (another model's name, an aborted request, too few choices) is an
error of the server, never a wrong answer.
"""

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

import orjson

from selfstudy_engine.data.errors import ServerError, shown, shown_text
from selfstudy_engine.data.schema import Completion
from selfstudy_engine.engine.http_session import Answer

_FINISHED = ("stop", "length")
_TOO_LONG = (
    b"context length",
    b"longer than the maximum model length",
    b"max_tokens must be at least 1, got 0",  # of a prompt that leaves no room; we never ask for 0
)
"""What vLLM's checks of a prompt say, one after the other."""
_MOST_TOKENS = 2**31 - 1
"""What the store's column holds."""


def decode(answer: Answer, url: str) -> dict[str, Any]:
    """Return the JSON object of an answer.

    Raises:
        ServerError: another status than 200, or another body.
    """
    if answer.status != 200:
        raise ServerError(
            f"the server at {url} failed with {answer.status}: {shown_text(answer.text)}"
        )
    try:
        content = orjson.loads(answer.body)  # refuses NaN, as JSON does
    except ValueError as error:
        raise ServerError(
            f"the server at {url} answered {shown(answer.text)}, which isn't JSON: {error}"
        ) from error
    if not isinstance(content, dict):
        raise ServerError(f"the server at {url} answered {shown(answer.text)}, not an object")
    return content


def is_too_long(answer: Answer) -> bool:
    """Tell whether the server refused a prompt that leaves no room for an answer."""
    return answer.status == 400 and any(words in answer.body for words in _TOO_LONG)


def to_completions(answer: Mapping[str, Any], model: str, n: int) -> list[Completion]:
    """Return the n completions of a decoded answer, in the order of their index.

    Raises:
        ServerError: they aren't n, aren't finished, or are another model's.
    """
    if answer.get("model") != model:
        raise ServerError(
            f"the server answered as model {shown(answer.get('model'))}, asked was {model!r}"
        )
    try:
        choices = sorted(answer["choices"], key=itemgetter("index"))
        if [choice["index"] for choice in choices] != list(range(n)):
            raise ServerError(f"the server gave {len(choices)} choices, asked were {n}")
        if not all(isinstance(choice["text"], str) for choice in choices):
            raise TypeError("a text is missing")
        bad = [c["finish_reason"] for c in choices if c["finish_reason"] not in _FINISHED]
        if bad:
            raise ServerError(
                f"the server ended a completion with {shown(bad[0])}, not one of {_FINISHED}"
            )
        usage = answer.get("usage")
        if usage is None:
            raise ServerError("the server's answer has no token counts (usage)")
        num_prompt_tokens = _count(usage["prompt_tokens"])
        per_choice, rest = divmod(_count(usage["completion_tokens"]), n)
        return [
            Completion(
                choice["text"],
                choice["finish_reason"],
                num_prompt_tokens,
                per_choice + (index < rest),
            )
            for index, choice in enumerate(choices)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(f"the server's answer isn't a completion: {shown(error)}") from error


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MOST_TOKENS:
        raise ValueError(f"{shown(value)} isn't a number of tokens")
    return value
