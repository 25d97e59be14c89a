"""Arguments that aren't passed on to vLLM: they would open servers, show secrets, or hide ranks."""

from collections.abc import Iterable

_ELSEWHERE = "give it to our command (serve has --port, --public and --host)"
_GUARD = "nothing may stand before what asks for the key"
_ONE_ADDRESS = "every rank must answer at one address; start several servers instead"
_SEEN = "every user of the machine can see it, and run.toml keeps it"
REFUSED = {
    "--host": _ELSEWHERE,
    "--port": _ELSEWHERE,
    "--uds": _ELSEWHERE,
    "--grpc": _GUARD,
    "--grpc-port": _GUARD,
    "--middleware": _GUARD,
    "--ssl-certfile": "give it to serve --public",
    "--ssl-keyfile": "give it to serve --public",
    "--api-key": f"{_SEEN}; set SELFSTUDY_SERVER_KEY",
    "--headless": _ONE_ADDRESS,
    "--data-parallel-rank": _ONE_ADDRESS,
    "--data-parallel-start-rank": _ONE_ADDRESS,
    "--data-parallel-external-lb": _ONE_ADDRESS,
    "--data-parallel-hybrid-lb": _ONE_ADDRESS,
    "--data-parallel-multi-port-external-lb": _ONE_ADDRESS,
    **dict.fromkeys(("-dpn", "-dpr", "-dpe", "-dph", "-dpm"), _ONE_ADDRESS),
    "--hf-token": f"{_SEEN}; set HF_TOKEN",
}
"""Argument -> what to do instead."""


def refuse_arguments(arguments: Iterable[str]) -> str:
    """Return why one of the arguments isn't passed on, without its value; empty if all are.

    vLLM takes underscores for hyphens, and any beginning that fits one argument only.

    >>> refuse_arguments(["--max-num-seqs", "4", "--ssl_k=mine.pem"])
    '--ssl-k: not passed on to vLLM; give it to serve --public'
    >>> refuse_arguments(["--max-num-seqs", "4"])
    ''
    """
    for argument in arguments:
        name = argument.partition("=")[0].replace("_", "-")
        begins_long = name.startswith("--") and name != "--"
        for refused, remedy in REFUSED.items():
            if name == refused or (begins_long and refused.startswith(name)):
                return f"{name}: not passed on to vLLM; {remedy}"
    return ""
