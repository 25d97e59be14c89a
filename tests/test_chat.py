"""`serve --run`: chats in the run's template; what vLLM is asked, and what is refused."""

import asyncio
import socket
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from selfstudy_engine.cli.main import cli
from selfstudy_engine.data.config import override
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.facts import describe_facts
from selfstudy_engine.data.prompts import STOP, render_prompt
from selfstudy_engine.data.run_folder import RunFolder, read_config
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.chat import RUN_VARIABLE, AskInTemplate, chat_template_of

ROUTE = "/v1/chat/completions"
ETHANOL = Molecule("", "", "CCO", 0.0)
FACTS = describe_facts("CCO")


def chat(content: Any, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": content}]} | more


def prompt_of(body: dict[str, Any]) -> str:
    [message] = body["messages"]
    assert message["role"] == "user"
    return str(message["content"])


@pytest.mark.parametrize(
    "elsewhere",
    [{"server.replicas": 2}, {"server.ray": "auto"}, {"server.url": "http://127.0.0.1:1"}],
    ids=["replicas", "ray", "url"],
)
def test_a_run_is_served_wherever_its_servers_were(
    copied: RunFolder, elsewhere: dict[str, Any]
) -> None:
    copied.config.write_text(override(read_config(copied), elsewhere).to_toml(), "utf-8")
    where = ["--runs", str(copied.path.parent), "--run", "test"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(cli, ["serve", *where, "--port", port])
    assert f"port {port} on 127.0.0.1 can't be used" in result.output
    refused = CliRunner().invoke(cli, ["serve", *where, "--replicas", "2"])
    assert "leave out --replicas and --ray" in refused.output


def test_a_smiles_becomes_the_runs_question(finished: RunFolder) -> None:
    template = chat_template_of(finished)
    body = template.ask(chat(" OCC\n"))
    config = read_config(finished)
    assert prompt_of(body) == render_prompt(ETHANOL, config.property, (), "facts")
    assert body["max_tokens"] == config.generation.max_tokens
    assert body["temperature"] == 0
    assert body["stop"] == [STOP]
    assert body["add_special_tokens"] is True
    assert body["model"] == "tiny"
    null = dict.fromkeys(["temperature", "stop", "max_tokens", "max_completion_tokens", "seed"])
    assert template.ask(chat("CCO", **null)) == body


def test_a_name_of_the_runs_molecules_becomes_one(finished: RunFolder) -> None:
    config = read_config(finished)
    molecule = load_exemplars(finished.exemplars())[0].molecule
    template = chat_template_of(finished)
    expected = render_prompt(molecule, config.property, (), "facts")
    for text in (molecule.name, molecule.name.upper(), f"Name: {molecule.name}"):
        assert prompt_of(template.ask(chat(text))) == expected
    parts = [{"type": "text", "text": molecule.name}]
    assert prompt_of(template.ask(chat(parts))) == expected


def test_a_name_of_two_molecules_is_refused(copied: RunFolder) -> None:
    path = copied.exemplars()
    first = path.read_bytes().splitlines()[0]
    name = orjson.loads(first)["name"].upper()
    other = orjson.dumps(orjson.loads(first) | {"name": name, "smiles": "C[Si](C)(C)F"})
    path.write_bytes(path.read_bytes() + other + b"\n")
    template = chat_template_of(copied)
    for text in (name, f"Name: {name}"):
        with pytest.raises(UsageError, match=f"2 molecules are named '{name.lower()}'"):
            template.ask(chat(text))
    assert "C[Si](C)(C)F" in prompt_of(template.ask(chat(f"Name: {name}\nSMILES: C[Si](C)(C)F")))


def test_lines_state_name_and_smiles(finished: RunFolder) -> None:
    asked = chat_template_of(finished).ask(chat("name: my compound\nSMILES: OCC"))
    assert prompt_of(asked) == f"Name: my compound\nSMILES: CCO\nFacts: {FACTS}\nReason:"


def test_only_the_last_message_counts_and_settings_are_the_clients(finished: RunFolder) -> None:
    body = chat("CCO", temperature=0.7, n=4, stream=True, max_completion_tokens=9)
    body["messages"] = [{"role": "system", "content": "be brief"}, *body["messages"]]
    asked = chat_template_of(finished).ask(body)
    assert "CCO" in prompt_of(asked)
    settings = ("temperature", "n", "stream", "max_completion_tokens")
    assert [asked[key] for key in settings] == [0.7, 4, True, 9]
    assert "max_tokens" not in asked


@pytest.mark.parametrize(("n", "temperature"), [(None, 0.0), (1, 0.0), (4, 0.7)])
def test_several_answers_are_sampled(
    finished: RunFolder, n: int | None, temperature: float
) -> None:
    """VLLM refuses to give several greedy ones."""
    asked = chat_template_of(finished).ask(chat("CCO", n=n))
    assert asked["temperature"] == temperature


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (chat("What melts at 80 °C?"), "is no molecule; send a SMILES"),
        (chat("Name: unobtainium"), "is no molecule"),
        (chat("SMILES: C1CC"), "is no molecule"),
        (chat(""), "is no molecule"),
        (chat(None), "no message with a text"),
        (chat([{"type": "image_url"}]), "no message with a text"),
        ({"messages": []}, "no message with a text"),
        ([], "no message with a text"),
    ],
)
def test_what_is_no_molecule_is_refused(finished: RunFolder, body: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        chat_template_of(finished).ask(body)


def send_through(
    monkeypatch: pytest.MonkeyPatch,
    folder: RunFolder,
    parts: list[bytes],
    *,
    path: str = ROUTE,
    method: str = "POST",
) -> tuple[list[tuple[dict[str, Any], bytes]], list[dict[str, Any]]]:
    """Return what reached the app (scope and body), and what was sent back without it."""
    monkeypatch.setenv(RUN_VARIABLE, str(folder.path))
    reached, sent = [], []
    messages = [
        {"type": "http.request", "body": part, "more_body": number < len(parts)}
        for number, part in enumerate(parts, start=1)
    ]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        reached.append((scope, body))

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-length", b"7"), (b"authorization", b"Bearer key")]
    scope = {"type": "http", "path": path, "method": method, "headers": headers}
    asyncio.run(AskInTemplate(app)(scope, receive, send))
    return reached, sent


def test_a_chat_is_rewritten_on_its_way(
    monkeypatch: pytest.MonkeyPatch, finished: RunFolder
) -> None:
    content = orjson.dumps(chat("CCO"))
    [(scope, body)], sent = send_through(monkeypatch, finished, [content[:9], content[9:]])
    assert prompt_of(orjson.loads(body)) == f"SMILES: CCO\nFacts: {FACTS}\nReason:"
    assert dict(scope["headers"]) == {
        b"content-length": str(len(body)).encode(),
        b"authorization": b"Bearer key",
    }
    assert not sent


@pytest.mark.parametrize(
    ("path", "method"), [("/v1/completions", "POST"), (ROUTE, "GET"), ("/pause", "POST")]
)
def test_everything_else_passes_as_it_is(
    monkeypatch: pytest.MonkeyPatch, finished: RunFolder, path: str, method: str
) -> None:
    [(_, body)], sent = send_through(
        monkeypatch, finished, [b"any ", b"thing"], path=path, method=method
    )
    assert body == b"any thing"
    assert not sent


@pytest.mark.parametrize(
    ("parts", "status", "message"),
    [
        ([b"{"], 400, "JSON"),
        ([orjson.dumps(chat("nothing"))], 400, "is no molecule"),
        ([b"x" * 600_000] * 2, 413, "longer than 1,000,000 bytes"),
    ],
)
def test_a_wrong_chat_is_answered_as_openai_does(
    monkeypatch: pytest.MonkeyPatch,
    finished: RunFolder,
    parts: list[bytes],
    status: int,
    message: str,
) -> None:
    reached, [start, answer] = send_through(monkeypatch, finished, parts)
    assert not reached
    assert start["status"] == status
    error = orjson.loads(answer["body"])["error"]
    assert error["type"] == "invalid_request_error"
    assert message.lower() in error["message"].lower()
