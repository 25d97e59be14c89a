"""Processes that must not outlive this one, however it ends."""

import os
import signal
import subprocess
from contextlib import suppress

import psutil

from selfstudy_engine.data.privacy import child_environment

GRACE_SECONDS = 20
"""Between the request to end and the kill."""
_POLLS_PER_SECOND = 5
# Standard input ends with this process, also if that is killed; a line says that it isn't needed.
_REAP = """
read -r _ && exit
kill -s TERM -- "-$1" 2>/dev/null
polls=0
while kill -s 0 -- "-$1" 2>/dev/null; do
  polls=$((polls + 1))
  [ "$polls" -lt "$2" ] || kill -s KILL -- "-$1" 2>/dev/null
  [ "$polls" -lt $((2 * $2)) ] || exit  # zombies that nobody collects
  sleep "$3"
done
"""


# Not a child of this process: Ray kills those of a worker whose node it gives up, and would leave
# vLLM's engine behind, which is a child's child.
_DETACHED = 'exec 3<&0; /bin/sh -c "$0" "$@" <&3 3<&- &'


class Reaper:
    """A shell that ends a process group once this process is gone.

    `end_with_parent` alone isn't enough for vLLM: it loses a signal that comes at the wrong moment
    of its start (docs/decisions.md, "A server's end").

    Args:
        group: to end.
    """

    def __init__(self, group: int) -> None:
        polls = GRACE_SECONDS * _POLLS_PER_SECOND
        arguments = str(group), str(polls), str(1 / _POLLS_PER_SECOND)
        launcher = subprocess.Popen(
            ["/bin/sh", "-c", _DETACHED, _REAP, "reaper", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=child_environment(),
            start_new_session=True,  # a Ctrl-C isn't for it
        )
        launcher.wait()
        assert launcher.stdin
        self._leash = launcher.stdin

    def dismiss(self) -> None:
        """End the shell: the group is gone."""
        with suppress(BrokenPipeError), self._leash as leash:
            leash.write(b"\n")


def kill_tree(leader: "subprocess.Popen[bytes]") -> None:
    """Kill a child that leads a process group, with its group and with all that it has started.

    torch's launcher gives each of its workers a session of its own, out of the group's reach.
    """
    started: list[psutil.Process] = []
    try:
        if leader.poll() is None:
            with suppress(psutil.NoSuchProcess):
                started = psutil.Process(leader.pid).children(recursive=True)
    finally:  # also where a second Ctrl-C comes in between
        with suppress(ProcessLookupError):
            os.killpg(leader.pid, signal.SIGKILL)
    for process in started:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def group_exists(group: int) -> bool:
    """Tell whether any process of a group is left."""
    with suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False
