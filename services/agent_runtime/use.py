"""Whether a machine is in use by what no request shows: sessions, load, traffic."""

import threading
from pathlib import Path

from services.agent_runtime.gateway import Gateway

_EVERY = 30.0
_BUSY = 0.25
"""Of a processor, over a minute; reporting itself takes far less."""
_TRAFFIC = 256 * 1024
"""Bytes in all between two reports; health checks and renewals are far fewer."""
_SSH = "0016"
_ESTABLISHED = "01"


def signals(proc: Path, traffic_before: int) -> list[str]:
    """The names of what shows use, by the kernel's tables in `proc`."""
    found = []
    if any(_session(line) for name in ("tcp", "tcp6") for line in _lines(proc / "net" / name)):
        found.append("ssh")
    if float((proc / "loadavg").read_text().split()[0]) >= _BUSY:
        found.append("load")
    if traffic(proc) - traffic_before >= _TRAFFIC:
        found.append("network")
    return found


def traffic(proc: Path) -> int:
    """Bytes in and out since the start, of all interfaces but the one that leads nowhere."""
    total = 0
    for line in _lines(proc / "net/dev")[1:]:
        name, _, numbers = line.partition(":")
        if name.strip() != "lo":
            counts = numbers.split()
            total += int(counts[0]) + int(counts[8])
    return total


def report(gateway: Gateway, proc: Path = Path("/proc")) -> None:
    """Report every half minute, for ever."""
    before = traffic(proc)
    while True:
        threading.Event().wait(_EVERY)
        found, before = signals(proc, before), traffic(proc)
        if found:
            gateway.report(found)


def _session(line: str) -> bool:
    _, local, _, state, *_ = line.split()
    return local.endswith(f":{_SSH}") and state == _ESTABLISHED


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()[1:]
