"""The command line: parse, call, print; the only place that turns errors into exit codes."""
