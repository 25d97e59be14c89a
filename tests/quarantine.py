"""Run a command where only loopback leads anywhere, and see each packet that it tries to send.

In a network namespace of its own (Linux, root) the default route leads into a TUN device whose
other end is read here, whoever opened a socket: Python, C, a resolver. IPv6 is off on that device,
since the kernel itself would send there.
"""

import ctypes
import fcntl
import functools
import ipaddress
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ADDRESS = "192.0.2.1"
"""Of the device: the one address of the namespace that isn't loopback's."""
_RESOLVER = "192.0.2.53"
_DEVICE = "out"
_ISOLATE = ["unshare", "--net", "--mount", "--"]
_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP"}


@dataclass(frozen=True)
class Quarantined:
    """How a command ended, and what it sent."""

    returncode: int
    output: str
    packets: list[str]
    """Each one's protocol and destination: "UDP 192.0.2.53:53"."""
    num_sent: int
    """As the kernel counted them."""


@functools.cache
def refusal_of_quarantine() -> str:
    """Return why no such namespace can be made here; empty if one can."""
    probe = "ip tuntap add dev probe mode tun"
    try:
        result = subprocess.run(
            [*_ISOLATE, *probe.split()], capture_output=True, text=True, check=False, timeout=30
        )
    except OSError as error:
        return str(error)
    return result.stderr.strip()


def require_quarantine() -> None:
    """Skip a test where no such namespace can be made."""
    if refusal := refusal_of_quarantine():
        pytest.skip(f"no network namespace with a TUN device here: {refusal}")


def run_quarantined(
    command: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> Quarantined:
    """Run a command to its end; `folder` receives what it prints."""
    report, output = folder / "packets.json", folder / "quarantined.log"
    wrapped = [*_ISOLATE, sys.executable, __file__, str(report), *command]
    with output.open("wb") as log:
        result = subprocess.run(
            wrapped, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, check=False
        )
    text = output.read_text("utf-8", errors="replace")
    assert report.exists(), text
    return Quarantined(result.returncode, text, **json.loads(report.read_bytes()))


def describe(packet: bytes) -> str:
    """Return protocol and destination of an IPv4 packet.

    >>> describe(bytes([0x45, *[0] * 8, 17, *[0] * 6, 192, 0, 2, 53, 0, 9, 0, 53]))
    'UDP 192.0.2.53:53'
    """
    if packet[0] >> 4 != 4:
        return f"no IPv4 packet: {packet[:8].hex()}"
    protocol = _PROTOCOLS.get(packet[9], f"protocol {packet[9]}")
    destination = str(ipaddress.IPv4Address(packet[16:20]))
    if protocol in ("TCP", "UDP"):
        start = (packet[0] & 15) * 4 + 2
        destination += f":{int.from_bytes(packet[start : start + 2])}"
    return f"{protocol} {destination}"


def _open_device() -> int:
    """Make the device, with the default route into it; return its other end."""
    set_interface, tun_without_header = 0x400454CA, 0x1001
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(
        descriptor, set_interface, struct.pack("16sH14x", _DEVICE.encode(), tun_without_header)
    )
    Path(f"/proc/sys/net/ipv6/conf/{_DEVICE}/disable_ipv6").write_text("1")
    for words in (
        "link set lo up",
        f"addr add {ADDRESS}/24 dev {_DEVICE}",
        f"link set {_DEVICE} up",
        f"route add default dev {_DEVICE}",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    return descriptor


def _resolve_outside(configuration: Path) -> None:
    """Have names looked up through the device: a resolver on loopback would hide that."""
    configuration.write_text(f"nameserver {_RESOLVER}\noptions timeout:1 attempts:1\n")
    subprocess.run(["mount", "--bind", str(configuration), "/etc/resolv.conf"], check=True)


def _num_sent() -> int:
    lines = Path("/proc/net/dev").read_text("utf-8").splitlines()
    [fields] = [line.split()[1:] for line in lines if line.strip().startswith(f"{_DEVICE}:")]
    return int(fields[9])


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, 15)


def main(report: Path, command: list[str]) -> int:
    """Run the command inside the namespace that this process is in; write what it sent."""
    device = _open_device()
    _resolve_outside(report.with_name("resolv.conf"))
    packets: list[str] = []

    def read() -> None:
        while True:
            packets.append(describe(os.read(device, 65536)))

    threading.Thread(target=read, daemon=True).start()
    code = subprocess.run(command, check=False, preexec_fn=_end_with_parent).returncode
    report.write_text(json.dumps({"packets": packets, "num_sent": _num_sent()}))
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
