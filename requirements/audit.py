"""`make audit`: are vulnerabilities known of what is pinned here?

Runs pip-audit on requirements/*.lock, and on torch, whose CPU build stands in none of them. Exit
code 1 if something is known that vulnerabilities.toml doesn't explain. Where no index can be asked,
that is said, and is no failure: the first question is about a version that is known to be
vulnerable, so that silence isn't taken for health.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CONTROL = "jinja2==2.11.2"
"""Any index that knows vulnerabilities has one of this: PYSEC-2021-66."""
Dependencies = list[dict[str, Any]]


class NotAskedError(Exception):
    """pip-audit found nothing out."""


def ask(arguments: Sequence[str]) -> Dependencies:
    """Return what pip-audit says about each dependency.

    Raises:
        NotAskedError: with its last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "found.json"
        cache = HERE.parent / ".cache" / "pip-audit"
        command = [
            *(sys.executable, "-m", "pip_audit", "--disable-pip", "--progress-spinner", "off"),
            *("--cache-dir", str(cache), "--format", "json", "--output", str(output), *arguments),
        ]
        # Vulnerabilities and a missing network have the same exit code: only the first are written.
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if not output.exists() or not output.stat().st_size:
            said = result.stderr.strip().splitlines() or ["no reason given"]
            raise NotAskedError(said[-1])
        dependencies: Dependencies = json.loads(output.read_bytes())["dependencies"]
        return dependencies


def torch_of(project: Path) -> str:
    """Return the pin of torch's CPU build, as the release that an index knows."""
    found = re.search(r'"(torch==[0-9.]+)"', project.read_text("utf-8"))
    assert found, "pyproject.toml pins torch for the CPU"
    return found[1]


def audit(locks: Sequence[Path], torch: str, service: Sequence[str]) -> Dependencies:
    """Return what is known of all that is pinned.

    Args:
        locks: requirements files with hashes.
        torch: a pin that stands in none of them.
        service: arguments that choose who is asked.

    Raises:
        NotAskedError: nobody who could tell was reached.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(f"{CONTROL}\n{torch}\n")
        file.flush()
        first = ask(["--no-deps", "-r", file.name, *service])
    control = next(one for one in first if one["name"] == CONTROL.partition("==")[0])
    if not control.get("vulns"):
        raise NotAskedError(control.get("skip_reason") or f"it knows nothing of {CONTROL}")
    found = [one for one in first if one is not control]
    for lock in locks:  # pip-audit takes no two versions of a package in one call
        found += ask(["--require-hashes", "-r", str(lock), *service])
    return list({(one["name"], one.get("version")): one for one in found}.values())


def judge(dependencies: Dependencies, explained: dict[str, str]) -> tuple[list[str], bool]:
    """Return lines to show, and whether something is known that nobody explained.

    Args:
        dependencies: of `audit`.
        explained: id of a vulnerability -> why it stays.
    """
    lines, seen, failed = [], set(), False
    unknown = [one["name"] for one in dependencies if "skip_reason" in one]
    for one in dependencies:
        for known in one.get("vulns", []):
            names = {known["id"], *known["aliases"]}
            seen |= names
            where = f"{one['name']} {one['version']}: {known['id']}"
            if reason := next((explained[name] for name in names if name in explained), None):
                lines.append(f"{where} (known: {reason})")
                continue
            failed = True
            fixed = ", ".join(known["fix_versions"]) or "no version yet"
            lines.append(f"{where}, fixed by {fixed}: {known['description'][:200]}")
    lines += [
        f"{name} in vulnerabilities.toml isn't found any more: remove it"
        for name in explained
        if name not in seen
    ]
    asked = len(dependencies) - len(unknown)
    lines.append(f"{asked} packages asked about, {len(unknown)} unknown to the index")
    return lines, failed or any(name not in seen for name in explained)


def main(service: Sequence[str]) -> int:
    """Audit everything; returns the exit code. `service`: further arguments of pip-audit."""
    explained = tomllib.loads((HERE / "vulnerabilities.toml").read_text("utf-8"))
    locks = sorted(HERE.glob("*.lock"))
    try:
        found = audit(locks, torch_of(HERE.parent / "pyproject.toml"), service)
    except NotAskedError as error:
        sys.stdout.write(f"audit: no index can be asked here, nothing was audited: {error}\n")
        return 0
    lines, failed = judge(found, explained)
    sys.stdout.write("".join(f"audit: {line}\n" for line in lines))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
