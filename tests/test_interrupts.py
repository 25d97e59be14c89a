"""Ctrl-C ends what runs, at once, and RDKit neither swallows it nor cuts a result short."""

import signal
import subprocess
import sys
import time

import pytest

BEGIN = """
import threading, time
from rdkit import Chem
from selfstudy_engine.cli.interrupts import guard_interrupts
guard_interrupts()
molecule = Chem.MolFromSmiles("CC(=O)Oc1ccccc1C(=O)NCCCOc1ccc(CC(N)C(=O)O)cc1")
pattern = Chem.MolFromSmarts("[#6]~[#6]~[#6]")
found = len(molecule.GetSubstructMatches(pattern))
print("ready", flush=True)
"""
SEARCH = """
end = time.monotonic() + 20
while time.monotonic() < end:
    assert len(molecule.GetSubstructMatches(pattern)) == found
"""
JOIN = """
thread = threading.Thread(target=time.sleep, args=(20,), daemon=True)
thread.start()
thread.join()
"""
ASYNCIO = """
import asyncio
async def work():
    try:
        await asyncio.sleep(20)
    except asyncio.CancelledError:
        print("tidied up", flush=True)
        raise
asyncio.run(work())
"""


def interrupt(script: str, number: signal.Signals, num_processes: int = 1) -> list[tuple[int, str]]:
    """Return exit codes and output of processes that get a signal; each ends within 10 s."""
    command = [sys.executable, "-c", BEGIN + script]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(num_processes)
    ]
    found = []
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    for process in processes:
        process.send_signal(number)
    for process in processes:
        output, _ = process.communicate(timeout=10)
        found.append((process.returncode, output))
    return found


@pytest.mark.parametrize(("script", "num_processes"), [(SEARCH, 6), (JOIN, 1), (ASYNCIO, 1)])
def test_ctrl_c_ends_what_runs(script: str, num_processes: int) -> None:
    for code, output in interrupt(script, signal.SIGINT, num_processes):
        assert code == 128 + signal.SIGINT, output
        assert "KeyboardInterrupt" in output
        assert ("tidied up" in output) == (script == ASYNCIO)


def test_ctrl_c_stays_ignored_where_it_is() -> None:
    """As in a shell's background jobs; they end by SIGTERM."""
    script = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN){BEGIN}"
    command = [sys.executable, "-c", script + "time.sleep(1); print('whole')"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=10)
    assert (process.returncode, output) == (0, "whole\n")


def test_the_command_is_guarded() -> None:
    script = (
        "import signal; from selfstudy_engine.cli import main\n"
        "main.cli = lambda **_: print(signal.pthread_sigmask(signal.SIG_BLOCK, []))\n"
        "main.main()"
    )
    found = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True)
    assert b"SIGINT" in found.stdout
