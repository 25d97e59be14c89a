"""`selfstudy-engine serve`."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from selfstudy_engine.cli import options
from selfstudy_engine.cli.loop import SERVER_KEY_VARIABLE
from selfstudy_engine.cli.options import (
    BASE_OPTIONS,
    ROUND_OPTION,
    RUNS_OPTION,
    SERVER_OPTIONS,
    apply,
    config_options,
    resolve,
)

if TYPE_CHECKING:
    from selfstudy_engine.engine.server import Endpoint


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
    help="Port on 127.0.0.1.",
)
@click.option("--run", "run_name", help="Run whose adapter answers, chats in its template.")
@ROUND_OPTION
@RUNS_OPTION
@SERVER_OPTIONS
@config_options(("train.rank", "--max-lora-rank"))
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="TOML file with any of the options.",
)
@click.option(
    "--log",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("server.log"),
    show_default=True,
    help="File that receives vLLM's output.",
)
@options.vllm_arguments
def serve(
    adapter: Path | None,
    port: int,
    run_name: str | None,
    round_index: int | None,
    runs: Path,
    config_path: Path | None,
    log: Path,
    vllm_arguments: tuple[str, ...],
    **values: Any,
) -> None:
    """Start a vLLM server that is ready for hot-swapped adapters.

    It listens on 127.0.0.1 only and asks for a key: that of SELFSTUDY_SERVER_KEY, or a new one,
    which is printed. Ctrl-C ends it. Arguments after -- go to vLLM.

    With --run any OpenAI client can ask: a chat message that is a SMILES, or a name of the run's
    table, is put into the template that the run's adapters learned.
    """
    from selfstudy_engine.data.adapters import read_adapter
    from selfstudy_engine.data.errors import UsageError
    from selfstudy_engine.data.run_folder import find_run, read_config
    from selfstudy_engine.engine.base_model import choose_base_model
    from selfstudy_engine.engine.connection import Connection
    from selfstudy_engine.engine.predict import finished_round
    from selfstudy_engine.engine.server import VllmServer, check_port, check_servable

    if run_name and (adapter or config_path):
        raise UsageError("--run brings its adapter and its configuration; leave out the others")
    if round_index is not None and not run_name:
        raise UsageError("--round is one of a run's; name the run with --run")
    if vllm_arguments:
        values["server__extra_args"] = list(vllm_arguments)
    folder = find_run(runs, run_name) if run_name else None
    if folder:
        config = apply(read_config(folder), values)
        adapter = folder.adapter(finished_round(folder, round_index))
    else:
        config = resolve(config_path, values)
    check_port(port)
    loaded = read_adapter(adapter) if adapter else None
    model, config = choose_base_model(config)
    if loaded:
        check_servable(loaded, config, model)
    key = os.environ.get(SERVER_KEY_VARIABLE)
    server = VllmServer(config, model, log, port=port, api_key=key, chat_about=folder)
    click.echo(f"Starting vLLM with {model} (a minute or two; log: {log}) ...")
    with Connection(config, model, server) as connection:
        connection.connect()
        if loaded:
            connection.swap_to(loaded)
        endpoint, served = connection.endpoint, connection.served.model
        click.echo(f"URL:    {endpoint.url}/v1")
        click.echo(f"Model:  {served}" + (f" with adapter {adapter}" if adapter else ""))
        click.echo(f"Key:    {endpoint.api_key}  ({SERVER_KEY_VARIABLE} for loop --server)")
        click.echo(f"Try:    {_curl(endpoint, served, chat=folder is not None)}")
        while True:
            server.check_alive()
            time.sleep(1)


def _curl(endpoint: "Endpoint", model: str, *, chat: bool) -> str:
    """Return a shell command that asks a question in the form that adapters learn."""
    import shlex

    import orjson

    question: dict[str, Any] = {"model": model}
    if chat:
        question["messages"] = [{"role": "user", "content": "CCO"}]
    else:
        prompt = "Name: ethanol\nSMILES: CCO\nReason:"
        question |= {"prompt": prompt, "max_tokens": 64, "temperature": 0}
    headers = endpoint.headers | {"Content-Type": "application/json"}
    arguments = ["-s", f"{endpoint.url}/v1/{'chat/' if chat else ''}completions"]
    for name, value in headers.items():
        arguments += ["-H", f"{name}: {value}"]
    return shlex.join(["curl", *arguments, "-d", orjson.dumps(question).decode()])
