"""`serve --public`: its options, and what they make of a server."""

import ipaddress
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from selfstudy_engine.data.adapters import Adapter
    from selfstudy_engine.data.config import RunConfig
    from selfstudy_engine.engine.public_serving import PublicServing

Function = TypeVar("Function", bound=Callable[..., Any])
_DEFAULTS = {"host": "0.0.0.0", "requests_per_minute": 300, "max_body_bytes": 1_000_000}
_FILES = ("ssl_certfile", "ssl_keyfile")
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


def _check_address(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    try:
        return value and str(ipaddress.ip_address(value))
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is no IP address; give one of this machine's, or 0.0.0.0 for all"
        ) from error


_OPTIONS = (
    click.option("--public", is_flag=True, help="Let other machines ask; nothing can be swapped."),
    click.option(
        "--host",
        callback=_check_address,
        help=f"--public: IP address to listen on. [default: {_DEFAULTS['host']}]",
    ),
    click.option(
        "--requests-per-minute",
        type=click.IntRange(min=30),
        help=f"--public: of one address. [default: {_DEFAULTS['requests_per_minute']}]",
    ),
    click.option(
        "--max-body-bytes",
        type=click.IntRange(min=10_000),
        help=f"--public: longest request. [default: {_DEFAULTS['max_body_bytes']}]",
    ),
    click.option("--ssl-certfile", type=_FILE, help="--public: certificate for HTTPS (PEM)."),
    click.option("--ssl-keyfile", type=_FILE, help="--public: the certificate's key (PEM)."),
)


def public_options(function: Function) -> Function:
    """Add --public and what goes with it."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def take_public_options(values: MutableMapping[str, Any]) -> dict[str, Any] | None:
    """Take the options out of a command's values; None without --public.

    Raises:
        UsageError: options that go with --public, or with each other, stand alone.
    """
    from selfstudy_engine.data.errors import UsageError

    public = values.pop("public")
    taken = {name: values.pop(name) for name in (*_DEFAULTS, *_FILES)}
    given = {name: value for name, value in taken.items() if value is not None}
    if given and not public:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise UsageError(f"{flags}: only with --public; without, nobody but this machine asks")
    if len(given.keys() & set(_FILES)) == 1:
        raise UsageError("--ssl-certfile and --ssl-keyfile go together: give both, or none")
    return _DEFAULTS | given if public else None


def open_to_others(
    options: dict[str, Any], config: "RunConfig", model: str, adapter: "Adapter | None"
) -> "tuple[PublicServing, RunConfig]":
    """Return how a server is opened, and its configuration for that.

    Args:
        options: of `take_public_options`.
        config: resolved.
        model: folder or hub id of the base model.
        adapter: that answers; None is the base model.

    Raises:
        UsageError: a configuration that a public server can't have.
    """
    from selfstudy_engine.data.config import override
    from selfstudy_engine.data.devices import placement_of
    from selfstudy_engine.data.errors import UsageError
    from selfstudy_engine.engine.endpoint import trust_only
    from selfstudy_engine.engine.public_serving import PublicServing

    if adapter and not config.server.fast_lora and not placement_of(config).server:
        # Two requests for prompt_logprobs in one batch would end the engine.
        raise UsageError("--no-fast-lora: a client could end the server; leave it out")
    certificate, private_key = (options.get(name) for name in _FILES)
    if certificate:
        trust_only(certificate)
    serving = PublicServing(
        host=options["host"],
        requests_per_minute=options["requests_per_minute"],
        max_body_bytes=options["max_body_bytes"],
        base_name=Path(model).name if Path(model).is_dir() else model,
        adapter=adapter,
        certificate=certificate,
        private_key=private_key,
    )
    # One API server: each would count the requests of an address for itself.
    settings: dict[str, Any] = {"server.api_server_count": 1, "server.adapter_mode": "merged"}
    if adapter:
        settings |= {"server.adapter_mode": "runtime", "train.rank": adapter.rank}
    return serving, override(config, settings)
