"""Calls of the command line, in this process."""

from click.testing import CliRunner, Result

from selfstudy_engine.cli.main import cli


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def refuse(*arguments: object) -> str:
    """Return the message of a call that must end with exit code 2 and no traceback."""
    result = call(*arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())
