"""Questions in, a teacher's answers out: each is asked once, kept on the disk, and counted.

Speaks to any OpenAI-compatible server. Knows neither molecules nor what is asked about them.
"""

import asyncio
import logging
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import openai
from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from selfstudy_engine.data.config_sources import TeacherConfig
from selfstudy_engine.data.errors import SelfStudyError, ServerError, UsageError
from selfstudy_engine.engine.endpoint import Endpoint
from selfstudy_engine.engine.http_session import is_passing, retry_after_seconds
from selfstudy_engine.engine.teacher_budget import Budget
from selfstudy_engine.engine.teacher_cache import AnswerCache, TeacherAnswer, answer_key
from selfstudy_engine.engine.transport import MAX_RETRIES, backoff_seconds

_NOT_SENT = frozenset({"ConnectError", "ConnectTimeout"})
"""Errors of openai's transport (httpx or httpx2, by its version) before a request is sent."""
_MAX_SHOWN = 300
_REMEDIES = {
    401: "; check its key, OPENAI_API_KEY",
    403: "; check its key, OPENAI_API_KEY",
    404: "; check --teacher-model, and --teacher-url, which mostly ends in /v1",
}
"""Of refusals: what the caller can change."""
_LIMIT = "max_tokens"
_NEW_LIMIT = "max_completion_tokens"
"""Names of the limit of tokens. Ollama and llama-cpp-python ignore the new one, Mistral refuses it;
OpenAI's newer models refuse the old one, and name the new one."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Teacher:
    """Who is asked.

    Raises:
        UsageError: there is no key.
    """

    url: str
    """With its path: https://api.openai.com/v1."""
    model: str
    """As the server calls it."""
    api_key: str = field(repr=False)
    identity: str = ""
    """What stands for the URL among the answers kept, where that changes from call to call."""

    def __post_init__(self) -> None:
        if not self.api_key:
            raise UsageError(
                "the teacher needs a key; set OPENAI_API_KEY (any text if it takes none)"
            )

    @property
    def name(self) -> str:
        """The model's name, without the folder of a local one."""
        return Path(self.model).name if self.model.startswith("/") else self.model


class _AttemptError(Exception):
    """One try of a call failed."""

    def __init__(
        self,
        problem: str,
        *,
        passing: bool = True,
        charged: bool = False,
        pause_seconds: float | None = None,
    ) -> None:
        super().__init__(problem)
        self.passing = passing
        self.charged = charged
        """Whether the server may have answered, and charge for it."""
        self.pause_seconds = pause_seconds


class TeacherClient:
    """Use it as an async context manager.

    Args:
        teacher: who is asked.
        settings: how, and what it may cost.
        answers: what is known already; every new answer goes there.
    """

    def __init__(self, teacher: Teacher, settings: TeacherConfig, answers: AnswerCache) -> None:
        self.teacher = teacher
        self._settings = settings
        self._answers = answers
        self._identity = teacher.identity or teacher.url.rstrip("/")
        self.budget = Budget(settings, answers.paid(self._identity, teacher.model))
        self.num_known = 0
        """Questions whose answer was known."""
        self._asking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._failure: SelfStudyError | None = None
        self._limit = _LIMIT
        self._api: openai.AsyncOpenAI

    async def __aenter__(self) -> Self:
        proxy = Endpoint(self.teacher.url, "").may_use_proxy
        self._api = openai.AsyncOpenAI(
            base_url=self.teacher.url,
            api_key=self.teacher.api_key,
            max_retries=0,  # ours also see to what each try may cost
            timeout=None,  # ours is for the whole answer
            http_client=openai.DefaultAsyncHttpxClient(trust_env=proxy),
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._api.close()

    async def ask(self, question: str) -> TeacherAnswer:
        """Return the answer to a question, the one known already if there is one.

        After a failure nothing more is asked: what is in flight ends, and every further question
        fails in the same way.

        Raises:
            ServerError: no usable answer after all retries, or a refusal.
            BudgetError: the call could exceed what is allowed.
        """
        body = self._body(question)
        key = answer_key(self._identity, body)
        async with self._asking[key]:
            known = self._answers.get(key)
            if known:
                self.num_known += 1
                return known
            try:
                return await self._ask(key, question, body)
            except SelfStudyError as error:
                self._failure = self._failure or error
                raise

    def _body(self, question: str) -> dict[str, Any]:
        settings = self._settings
        body: dict[str, Any] = {
            "model": self.teacher.model,
            "messages": [{"role": "user", "content": question}],
            _NEW_LIMIT: settings.max_tokens,  # so kept answers call it, whatever is sent
        }
        return body | (
            {} if settings.temperature is None else {"temperature": settings.temperature}
        )

    async def _ask(self, key: str, question: str, body: dict[str, Any]) -> TeacherAnswer:
        for retry in range(MAX_RETRIES + 1):
            try:
                async with self.budget.reserve(question):
                    if self._failure:
                        raise self._failure
                    return await self._try(key, question, body)
            except _AttemptError as error:
                # Servers like to repeat what they were sent.
                problem = str(error).replace(self.teacher.api_key, "***")
                if retry == MAX_RETRIES or not error.passing:
                    raise ServerError(
                        f"teacher {self.teacher.model} at {self.teacher.url} failed: {problem}; "
                        "what it answered is kept, and the same command continues"
                    ) from None
                pause = error.pause_seconds
                pause = backoff_seconds(retry) if pause is None else pause
                logger.info("teacher: %s; again in %.1f s", problem, pause)
            await asyncio.sleep(pause)
        raise AssertionError("the last try returns or raises")

    async def _try(self, key: str, question: str, body: dict[str, Any]) -> TeacherAnswer:
        """Ask once; whatever was paid for, or may have been, is written down."""
        answer = TeacherAnswer(
            *(key, self._identity, self.teacher.model, question, "", ""),
            *self.budget.most(question),
        )
        try:
            completion = await self._send(body)
        except _AttemptError as error:
            if error.charged:
                self._keep(replace(answer, lost=True))
            raise
        except (asyncio.CancelledError, KeyboardInterrupt):  # Ctrl-C, while the server answers
            with suppress(OSError, ValueError):  # a full disk, a closed file: it ends all the same
                self._keep(replace(answer, lost=True))
            raise
        choice = completion.choices[0] if completion.choices else _Choice()
        answer = replace(answer, text=choice.message.text, finish_reason=choice.finish_reason or "")
        if usage := completion.usage:
            answer = replace(
                answer,
                num_prompt_tokens=usage.prompt_tokens,
                num_output_tokens=usage.completion_tokens,
            )
        self._keep(answer)
        return answer

    def _keep(self, answer: TeacherAnswer) -> None:
        self._answers.add(answer)
        self.budget.count(answer)

    async def _send(self, body: dict[str, Any]) -> "_Completion":
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                answer = await self._create(body)
            return _Completion.model_validate_json(answer.content)
        except TimeoutError as error:
            limit = self._settings.timeout_seconds
            raise _AttemptError(f"no answer within {limit:g} s", charged=True) from error
        except openai.APIStatusError as error:
            raise _AttemptError(
                f"status {error.status_code}: {error.message[:_MAX_SHOWN]}"
                + _REMEDIES.get(error.status_code, ""),
                passing=is_passing(error.status_code),
                pause_seconds=retry_after_seconds(error.response.headers),
            ) from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            charged = type(cause).__name__ not in _NOT_SENT
            raise _AttemptError(repr(cause)[:_MAX_SHOWN], charged=charged) from error
        except ValueError as error:  # the openai package checks nothing
            shown = " ".join(str(error).split())[:_MAX_SHOWN]
            raise _AttemptError(f"an answer that isn't a completion: {shown}", charged=True) from (
                error
            )

    async def _create(self, body: dict[str, Any]) -> Any:
        """Send a request, the limit of tokens by the name that this server knows."""
        create = self._api.chat.completions.with_raw_response.create
        sent = self._limit
        request = {sent if key == _NEW_LIMIT else key: value for key, value in body.items()}
        try:
            return await create(**request)
        except openai.BadRequestError as error:
            if sent == _NEW_LIMIT or _NEW_LIMIT not in error.message:
                raise
        self._limit = _NEW_LIMIT
        return await create(**body)


class _Part(BaseModel):
    type: str = "text"
    text: str | None = None


class _Message(BaseModel):
    content: str | list[_Part] | None = None

    @property
    def text(self) -> str:
        """The content, without parts of another kind, such as what the model thought."""
        if isinstance(self.content, list):
            return "".join(part.text or "" for part in self.content if part.type == "text")
        return self.content or ""


class _Choice(BaseModel):
    message: _Message = _Message()
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)


class _Completion(BaseModel):
    """The part of a chat completion that is read; one without a choice is an empty answer."""

    choices: list[_Choice]
    usage: _Usage | None = None

    @field_validator("usage", mode="wrap")
    @classmethod
    def _usage_if_valid(
        cls, usage: object, validate: ValidatorFunctionWrapHandler
    ) -> _Usage | None:
        """An answer is paid for, whether its server counts well or not."""
        try:
            found: _Usage | None = validate(usage)
        except ValidationError:
            return None
        return found
