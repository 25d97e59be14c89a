"""Command-line options made from the configuration: name, help and default stand there once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from selfstudy_engine.data.config import (
    RunConfig,
    Tracker,
    load_config,
    override,
    settle_config,
)
from selfstudy_engine.data.config_keys import flatten, read_toml
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.findings import FINDINGS, REJECT_BY_DEFAULT

Function = TypeVar("Function", bound=Callable[..., Any])
_SEPARATOR = "__"
_RUNNING = "server.url"
_STARTED = {"server.replicas": 1, "server.ray": "off"}
"""What starts servers, as it is where running ones are used."""


def config_option(key: str, *flags: str) -> Callable[[Function], Function]:
    """Return an option for a configuration key such as "generation.batch".

    Its default is shown but not passed on, so that a run's TOML stands unless the flag is given.
    """
    field = _field(key)
    flag = "--" + key.rsplit(".", 1)[-1].replace("_", "-")
    help_text = field.description or ""
    default = field.get_default(call_default_factory=True)
    if default is not None and not isinstance(default, BaseModel):
        help_text = f"{help_text.removesuffix('.')}. [default: {default}]"
    name = key.replace(".", _SEPARATOR)
    kind: dict[str, Any] = {}
    if field.annotation is not bool:
        kind["type"] = _click_type(field.annotation)
    elif default:
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    else:
        kind |= {"is_flag": True, "flag_value": True}
    return click.option(*(flags or (flag,)), name, default=None, help=help_text, **kind)


def _field(key: str) -> FieldInfo:
    model: type[BaseModel] = RunConfig
    *sections, leaf = key.split(".")
    for section in sections:
        annotation = model.model_fields[section].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        model = annotation
    return model.model_fields[leaf]


def _click_type(annotation: Any) -> Any:
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    if all(isinstance(kind, str) for kind in kinds) and kinds:
        return click.Choice(kinds)
    if get_origin(annotation) is not None and kinds:
        annotation = kinds[0]
    return annotation if annotation in (int, float) else str


def resolve(config_path: Path | None, values: dict[str, Any]) -> RunConfig:
    """Return the configuration of a TOML file and the options given on the command line.

    Args:
        config_path: of --config.
        values: of options made by `config_option`; those that weren't given are None.

    Raises:
        UsageError: an unknown key, a value outside its limits, or servers both to start and to use.
    """
    config = load_config(config_path, _given(values))
    _check_servers(config)
    return config


def resolve_run(
    config_path: Path | None, values: dict[str, Any], runs: Path
) -> tuple[RunConfig, RunConfig | None]:
    """Return the configuration of a run, and what it has had, if it has begun.

    Args:
        config_path: of --config.
        values: of options made by `config_option`; those that weren't given are None.
        runs: folder of all runs.

    Raises:
        SelfStudyError: the configuration is wrong, or the run can't be read.
    """
    from selfstudy_engine.data.pull import begun_config
    from selfstudy_engine.data.run_folder import RunFolder

    given = flatten(read_toml(config_path)) if config_path else {}  # once: it may be a pipe
    overrides = _given(values)
    place = {"name": RunConfig().name, "remote": None} | given | overrides
    remote = None if place["remote"] is None else str(place["remote"])
    begun = begun_config(RunFolder(runs / str(place["name"])), remote)
    config = settle_config(given, overrides, begun=begun, path=config_path)
    _check_servers(config)
    return config, begun


def apply(config: RunConfig, values: dict[str, Any]) -> RunConfig:
    """Return a run's configuration with the options given on the command line.

    Raises:
        UsageError: a value outside its limits, or servers both to start and to use.
    """
    given = _given(values)
    config = override(config, given)
    if _RUNNING in given:  # runs of earlier versions may have both, and used the running ones
        _check_servers(config)
    return config


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """Return the options by key; servers that are named take the place of a TOML's or a run's."""
    given = {
        key.replace(_SEPARATOR, "."): value for key, value in values.items() if value is not None
    }
    starts = given.keys() & _STARTED.keys()
    if _RUNNING in given and not starts:
        given |= _STARTED
    elif starts and _RUNNING not in given:
        given[_RUNNING] = []
    return given


def _check_servers(config: RunConfig) -> None:
    server = config.server
    if server.url and (server.replicas, server.ray) != tuple(_STARTED.values()):
        raise UsageError(
            "--server (in TOML: server.url) names servers that run already, --replicas and --ray "
            "are about servers to start: leave out the one or the others"
        )


class NewFile(click.Path):
    """A file to write: its folder is there, or is named before any work was done."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        path = Path(str(super().convert(value, param, ctx)))
        if not path.parent.is_dir():
            self.fail(f"folder {path.parent} doesn't exist; make it, or name another", param, ctx)
        return path


RUNS_OPTION = click.option(
    "--runs",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    show_default=True,
    help="Folder of all runs.",
)


def existing_run_options(function: Function) -> Function:
    """Add --run and --runs, which name a run that exists."""
    name = click.option("--run", "run_name", default="default", show_default=True, help="The run.")
    return name(RUNS_OPTION(function))


ROUND_OPTION = click.option(
    "--round",
    "round_index",
    type=click.IntRange(min=0),
    help="Round whose adapter is meant [default: the run's last one that passed --gate].",
)


def config_file_option(help_text: str) -> Callable[[Function], Function]:
    """Return --config, a TOML file."""
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        help=help_text,
    )


def run_options(function: Function) -> Function:
    """Add --config and --runs."""
    config = config_file_option("TOML file with any of the options, e.g. [generation] batch = 256.")
    return RUNS_OPTION(config(function))


def _check_vllm_arguments(
    ctx: click.Context, param: click.Parameter, value: tuple[str, ...]
) -> list[str] | None:
    if value and not value[0].startswith("-"):
        raise click.UsageError(
            f"unexpected argument {value[0]!r}; arguments for vLLM begin with - and come after --",
            ctx,
        )
    return list(value) or None


vllm_arguments = click.argument(
    "server__extra_args",
    metavar="[VLLM_ARGUMENTS]...",
    nargs=-1,
    type=click.UNPROCESSED,
    callback=_check_vllm_arguments,
)
"""Takes what stands after -- as arguments for vLLM."""


def config_options(*keys: str | tuple[str, ...]) -> Callable[[Function], Function]:
    """Add an option for each key; a tuple is a key and its flags."""

    def decorate(function: Function) -> Function:
        for key in reversed(keys):
            names = (key,) if isinstance(key, str) else key
            function = config_option(*names)(function)
        return function

    return decorate


reject_option = click.option(
    "--reject",
    "verdict__reject",
    multiple=True,
    type=click.Choice(FINDINGS),
    callback=lambda ctx, param, value: list(value) or None,
    help="Finding that rejects an answer; give it several times. "
    f"[default: {', '.join(REJECT_BY_DEFAULT)}]",
)
track_option = click.option(
    "--track",
    "track",
    multiple=True,
    type=click.Choice(get_args(Tracker)),
    callback=lambda ctx, param, value: list(value) or None,
    help="Show each round's figures there too; may be repeated. Its package must be installed.",
)


def _read_servers(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> list[str] | None:
    """Return the URLs, those in files too; a file's lines may be empty, or comments after #."""
    urls = []
    for value in values:
        if not value.startswith("@"):
            urls.append(value)
            continue
        try:
            lines = Path(value[1:]).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise click.BadParameter(f"can't read {value[1:]}: {error}", ctx, param) from error
        found = [line.partition("#")[0].strip() for line in lines]
        urls += [url for url in found if url]
        if not any(found):
            raise click.BadParameter(f"{value[1:]} names no server", ctx, param)
    return urls or None


server_option = click.option(
    "--server",
    "server__url",
    metavar="URL|@FILE",
    multiple=True,
    callback=_read_servers,
    help="Use a running server instead of starting one, e.g. http://127.0.0.1:8000; several "
    "share the prompts. May be repeated, or name a file with a URL a line.",
)
tolerance_option = click.option(
    "--tolerance",
    "property__tolerance",
    type=float,
    help="Largest error that is accepted, in the property's unit. "
    "[default: the property's, 30 for melting points]",
)


BASE_OPTIONS = config_options(
    ("model.path", "--model"),
    "model.dtype",
    "model.trust_remote_code",
    ("property", "--property"),
)
TABLE_OPTIONS = config_options(
    ("table.path", "--table"),
    "table.smiles_column",
    "table.value_column",
    "table.name_column",
    "table.value_unit",
    "table.organics",
    "table.salts",
    "table.duplicates",
    "table.conflicts",
    "table.max_spread",
    "table.split",
    "table.test_size",
)
SERVER_OPTIONS = config_options(
    "server.replicas",
    ("server.ray", "--ray"),
    "server.adapter_mode",
    "server.fast_lora",
    "server.max_model_len",
    "server.block_size",
    "server.max_num_seqs",
    "server.api_server_count",
    "server.kv_cache_gib",
    "server.gpu_memory_utilization",
    "server.compilation",
    "server.startup_timeout_seconds",
    "server.max_restarts",
    ("devices.server", "--server-device"),
)
TRAIN_OPTIONS = config_options(
    ("train.rank", "--lora-rank"),
    ("train.alpha", "--lora-alpha"),
    ("train.dropout", "--lora-dropout"),
    "train.learning_rate",
    "train.epochs",
    "train.min_steps",
    "train.tokens_per_step",
    "train.label",
    "train.sample_weights",
    "train.hinted_weight",
    "train.reasons",
    ("train.quantization", "--train-quantization"),
)
TRAIN_DEVICE_OPTIONS = config_options(
    ("devices.train", "--train-device"),
    "devices.train_launcher",
    "devices.num_processes",
    "devices.accelerate_config",
    "devices.tokens_per_device",
)
TEACHER_OPTIONS = config_options(
    ("teacher.url", "--teacher-url"),
    ("teacher.model", "--teacher-model"),
    ("teacher.num_exemplars", "--teacher-exemplars"),
    ("teacher.max_tokens", "--teacher-max-tokens"),
    ("teacher.temperature", "--teacher-temperature"),
    ("teacher.concurrency", "--teacher-concurrency"),
    ("teacher.timeout_seconds", "--teacher-timeout-seconds"),
    "teacher.price_in",
    "teacher.price_out",
    "teacher.max_cost",
)
