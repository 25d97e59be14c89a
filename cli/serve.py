"""`selfstudy-engine serve`."""

import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from selfstudy_engine.cli.options import (
    BASE_OPTIONS,
    ROUND_OPTION,
    RUNS_OPTION,
    SERVER_OPTIONS,
    apply,
    config_file_option,
    resolve,
    vllm_arguments,
)
from selfstudy_engine.cli.public import open_to_others, public_options, take_public_options
from selfstudy_engine.data.privacy import SERVER_KEY_VARIABLE

_PLAIN_HTTP = (
    "Note:   plain HTTP: who is on the way can read the key; give --ssl-certfile and --ssl-keyfile"
)
if TYPE_CHECKING:
    from selfstudy_engine.data.config import RunConfig
    from selfstudy_engine.data.run_folder import RunFolder
    from selfstudy_engine.engine.endpoint import Endpoint
    from selfstudy_engine.engine.server import VllmServer


@click.command()
@BASE_OPTIONS
@click.option(
    "--adapter",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Adapter folder to answer from [default: the base model].",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=8000,
    show_default=True,
    help="Port on 127.0.0.1, or on --host; several servers take free ones.",
)
@click.option("--run", "run_name", help="Run whose adapter answers, chats in its template.")
@ROUND_OPTION
@RUNS_OPTION
@SERVER_OPTIONS
@click.option(
    "--max-lora-rank",
    "train__rank",
    type=int,
    help="Largest rank of an adapter that can be served. [default: 16, or that of --run]",
)
@click.option(
    "--tokens-per-step",
    "train__tokens_per_step",
    type=int,
    help="Those of a loop that trains on the same GPU: room is left for them. "
    "[default: 256, or those of --run]",
)
@config_file_option("TOML file with any of the options.")
@click.option(
    "--log",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("server.log"),
    show_default=True,
    help="File that receives vLLM's output.",
)
@public_options
@vllm_arguments
def serve(
    adapter: Path | None,
    port: int,
    run_name: str | None,
    round_index: int | None,
    runs: Path,
    config_path: Path | None,
    log: Path,
    **values: Any,
) -> None:
    """Start a vLLM server that is ready for hot-swapped adapters.

    It listens on 127.0.0.1 only and asks for a key: that of SELFSTUDY_SERVER_KEY, or a new one,
    which is printed. Ctrl-C ends it. Arguments after -- go to vLLM.

    With --run any OpenAI client can ask: a chat message that is a SMILES, or a name of the run's
    table, is put into the template that the run's adapters learned.

    With --public other machines can ask: /v1/models, /v1/completions and /v1/chat/completions
    with the key, and /health without. What answers is loaded at the start and stays.

    With --replicas, or on the nodes of a Ray cluster with --ray, there are several servers with one
    key; those that die are started again.
    """
    from selfstudy_engine.data.adapters import read_adapter
    from selfstudy_engine.data.errors import UsageError
    from selfstudy_engine.data.run_folder import find_run
    from selfstudy_engine.engine.base_model import choose_base_model
    from selfstudy_engine.engine.connection import Connection
    from selfstudy_engine.engine.endpoint import HOST
    from selfstudy_engine.engine.public_serving import check_key
    from selfstudy_engine.engine.server import VllmServer, check_port, check_servable
    from selfstudy_engine.engine.subjects import finished_round

    public = take_public_options(values)
    key = os.environ.get(SERVER_KEY_VARIABLE, "")
    if run_name and (adapter or config_path):
        raise UsageError("--run brings its adapter and its configuration; leave out the others")
    if round_index is not None and not run_name:
        raise UsageError("--round is one of a run's; name the run with --run")
    folder = find_run(runs, run_name) if run_name else None
    if folder:
        config = _config_of_run(folder, values)
        adapter = folder.adapter(finished_round(folder, round_index))
    else:
        config = resolve(config_path, values)
    if config.server.replicas > 1 or config.server.ray != "off":
        _serve_several(config, log, adapter, key, takes_one=bool(public or folder))
    if public:
        check_key(key)
    check_port(port, public["host"] if public else HOST)
    loaded = read_adapter(adapter) if adapter else None
    model, config = choose_base_model(config)
    serving = None
    if public:
        serving, config = open_to_others(public, config, model, loaded)
    if loaded:
        check_servable(loaded, config, model)
    server = VllmServer(
        config, model, log, port=port, api_key=key, chat_about=folder, public=serving
    )
    click.echo(f"Starting vLLM with {model} (a minute or two; log: {log}) ...")
    with Connection(config, model, [server]) as connection:
        connection.connect()
        if loaded:
            connection.swap_to(loaded)
        model_line = connection.served.model + (f" with adapter {adapter}" if adapter else "")
        question = _curl(server.endpoint, connection.served.model, chat=folder is not None)
        for line in (*_address(server, made_up_key=not key), f"Model:  {model_line}"):
            click.echo(line)
        click.echo(f"Try:    {question}")
        while True:
            server.check_alive()
            time.sleep(1)


def _config_of_run(folder: "RunFolder", values: dict[str, Any]) -> "RunConfig":
    """Return a run's configuration, but for where its servers were: this is one of its own."""
    from selfstudy_engine.data.config import override
    from selfstudy_engine.data.run_folder import read_config

    alone = {"server.url": [], "server.replicas": 1, "server.ray": "off"}
    return apply(override(read_config(folder), alone), values)


def _serve_several(
    config: "RunConfig", log: Path, adapter: Path | None, key: str, *, takes_one: bool
) -> NoReturn:
    """Start servers with one key, and look after them; returns never."""
    from selfstudy_engine.data.adapters import read_adapter
    from selfstudy_engine.data.errors import UsageError
    from selfstudy_engine.engine.base_model import choose_base_model
    from selfstudy_engine.engine.connection import Connection
    from selfstudy_engine.engine.places import open_places
    from selfstudy_engine.engine.server import check_servable

    if takes_one:
        raise UsageError(
            "--public and --run are for one server on this machine; leave out --replicas and "
            "--ray, or name the run's adapter with --adapter"
        )
    loaded = read_adapter(adapter) if adapter else None
    model, config = choose_base_model(config)
    if loaded:
        check_servable(loaded, config, model)
    made_up = "" if key else secrets.token_urlsafe(24)
    with (
        open_places(config, model, log, api_key=key or made_up) as places,
        Connection(places.config, model, places.servers) as connection,
    ):
        click.echo(f"Starting {len(places.servers)} x vLLM with {model} (a minute or two) ...")
        connection.connect()
        if loaded:
            connection.swap_to(loaded)
        for server in places.servers:
            click.echo(f"URL:    {server.endpoint.url}/v1")
        click.echo(_key_line(made_up))
        click.echo(
            f"Model:  {connection.served.model}" + (f" with adapter {adapter}" if adapter else "")
        )
        connection.keep_answering()


def _key_line(made_up: str) -> str:
    shown = f"export {SERVER_KEY_VARIABLE}={made_up}"
    return "Key:    " + (shown if made_up else f"that of {SERVER_KEY_VARIABLE}")


def _address(server: "VllmServer", *, made_up_key: bool) -> Iterator[str]:
    """Yield how to reach a server; a key that somebody chose isn't shown."""
    public = server.public
    yield f"URL:    {server.endpoint.url}/v1" + (f" (on {public.host})" if public else "")
    yield _key_line(server.endpoint.api_key if made_up_key else "")
    if public and not public.certificate:
        yield _PLAIN_HTTP


def _curl(endpoint: "Endpoint", model: str, *, chat: bool) -> str:
    """Return a shell command that asks a question in the form that adapters learn.

    The key goes through a pipe: arguments of a command are visible to every user.
    """
    import shlex

    import orjson

    question: dict[str, Any] = {"model": model}
    if chat:
        question["messages"] = [{"role": "user", "content": "CCO"}]
    else:
        prompt = "Name: ethanol\nSMILES: CCO\nReason:"
        question |= {"prompt": prompt, "max_tokens": 64, "temperature": 0}
    arguments = ["-s", f"{endpoint.url}/v1/{'chat/' if chat else ''}completions"]
    if endpoint.certificate:
        arguments += ["--insecure"]  # it isn't made for this machine's own address
    arguments += ["-H", "@-", "-H", "Content-Type: application/json"]
    command = shlex.join(["curl", *arguments, "-d", orjson.dumps(question).decode()])
    return f'echo "Authorization: Bearer ${SERVER_KEY_VARIABLE}" | {command}'
