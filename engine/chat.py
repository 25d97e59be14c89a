"""An ASGI middleware that asks a run's question: any OpenAI client may chat about a molecule.

Runs inside vLLM's API server (--middleware). The last message names a molecule; the middleware
puts it into the template that the run's adapters learned. All else, from sampling to streaming, is
vLLM's.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.molecules import by_name, to_molecule
from selfstudy_engine.data.prompts import STOP, render_prompt
from selfstudy_engine.data.run_folder import RunFolder, read_config
from selfstudy_engine.data.schema import Exemplar, Molecule
from selfstudy_engine.data.task import split_of_run
from selfstudy_engine.engine.asgi import (
    App,
    Receive,
    RefusedError,
    Scope,
    Send,
    read_body,
    replay,
)

RUN_VARIABLE = "SELFSTUDY_CHAT_RUN"
"""Environment variable: the run's folder."""
PASS_THROUGH = "{{ messages[-1]['content'] }}"
"""Chat template: the message is the prompt."""
_ROUTE = "/v1/chat/completions"
_MAX_BODY = 1_000_000
_FORMS = 'a SMILES, a name of the run\'s table, or the lines "Name: ..." and "SMILES: ..."'


class ChatTemplate:
    """Turns chat requests into a run's questions.

    Args:
        config: of the run.
        shown: exemplars in each prompt.
        names: molecules of the run's table, by their name in lower case.
    """

    def __init__(
        self, config: RunConfig, shown: list[Exemplar], names: Mapping[str, Sequence[Molecule]]
    ) -> None:
        self._config = config
        self._shown = shown
        self._names = names

    def ask(self, body: Any) -> dict[str, Any]:
        """Return a request's body with the run's question as its only message.

        What the request leaves open (or sets to null) is set as in the run's evaluations: one
        answer is greedy, several are sampled as the loop does; as long as its answers may be.

        Raises:
            UsageError: the last message isn't a molecule.
        """
        molecule = self._molecule_of(_last_text(body))
        generation = self._config.generation
        prompt = render_prompt(molecule, self._config.property, self._shown, generation.template)
        given = {key: value for key, value in body.items() if value is not None}
        temperature = generation.temperature if given.get("n", 1) != 1 else 0.0
        asked: dict[str, Any] = {"temperature": temperature, "stop": [STOP]} | given
        if not {"max_tokens", "max_completion_tokens"} & given.keys():
            asked["max_tokens"] = generation.max_tokens
        # As a prompt of /v1/completions, which is what adapters are trained and measured on.
        return asked | {
            "messages": [{"role": "user", "content": prompt}],
            "add_special_tokens": True,
        }

    def _molecule_of(self, text: str) -> Molecule:
        lines = {
            key.strip().lower(): value.strip()
            for key, found, value in (line.partition(":") for line in text.splitlines())
            if found
        }
        smiles, name = lines.get("smiles"), lines.get("name", "")
        if smiles is None:
            known = self._names.get((name or text).strip().lower(), ())
            if len(known) > 1:
                raise UsageError(
                    f"{len(known)} molecules are named {known[0].name!r}; send the SMILES of one"
                )
            if known:
                return known[0]
            smiles = text.strip()
        molecule = to_molecule(smiles, name)
        if molecule is None:
            raise UsageError(f"{text.strip()[:200]!r} is no molecule; send {_FORMS}")
        return molecule


def _last_text(body: Any) -> str:
    """Return the text of a chat's last message."""
    try:
        content = body["messages"][-1]["content"]
        if not isinstance(content, str):
            content = "\n".join(part["text"] for part in content)
    except (KeyError, IndexError, TypeError) as error:
        raise UsageError(f"the request has no message with a text; send {_FORMS}") from error
    return str(content)


def chat_template_of(folder: RunFolder) -> ChatTemplate:
    """Return the chat template of a run as it lies in its folder."""
    config = read_config(folder)
    exemplars = load_exemplars(folder.exemplars())
    split = split_of_run(folder, config)
    molecules = [*split.relatives, *split.pool, *split.test, *(e.molecule for e in exemplars)]
    shown = exemplars[: config.generation.prompt_exemplars]
    return ChatTemplate(config, shown, by_name(molecules))


class AskInTemplate:
    """Rewrites chat requests, and passes everything else on.

    Raises:
        KeyError: when it is made without $SELFSTUDY_CHAT_RUN.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._template = chat_template_of(RunFolder(Path(os.environ[RUN_VARIABLE])))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, a chat about a molecule in the run's template."""
        if scope["type"] != "http" or scope["path"] != _ROUTE or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            body = orjson.loads(await read_body(receive, _MAX_BODY))
            asked = self._template.ask(body)
        except orjson.JSONDecodeError as error:
            reason = f"the request's body isn't JSON: {error}"
            await RefusedError(400, reason).answer(scope, send)
        except UsageError as error:
            await RefusedError(400, str(error)).answer(scope, send)
        except RefusedError as refused:
            await refused.answer(scope, send)
        else:
            await self._app(*replay(orjson.dumps(asked), scope, receive), send)
