"""Harm by one client at the edge: floods of frames that cost it nothing, and answers that nobody reads.

Another client asks at a steady rate meanwhile, over connections of its own. Each kind of harm runs for some
seconds from a process of its own and ends by itself; all of it stays on loopback. The memory is that of Envoy
and the gateway together, as the system counts it (proportional set size), at its highest during the harm.
"""

import asyncio
import contextlib
import itertools
import os
import resource
import select
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO, TypedDict

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes
from rich.console import Console

from local import bench_cluster, bench_gateway
from local.bench_gateway import THROUGH, Edge, request_with, steadily
from local.paths import ROOT

_SECONDS = 5
_IDLE = 10_000
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_BYTES_A_SECOND = 125_000_000
"""A gigabit a second."""
_AT_ONCE = 500
"""Frames that are sent together."""


class Measured(TypedDict):
    """By kind of harm: another client's p95 during it to before, and the memory in MiB."""

    slower: dict[str, float]
    mib: dict[str, float]


def measure() -> Measured:
    """Measure; what is there already stays as it is."""
    found: Measured = bench_cluster.measure(__name__)
    return found


async def _measure(console: Console) -> Measured:
    async with bench_gateway.standing() as edge:
        return await _harm(edge, console)


async def _harm(edge: Edge, console: Console) -> Measured:
    slower, mib = {}, {"nothing to do": _memory(edge)}
    for kind in FLOODS:
        before = _p95(await steadily(THROUGH, request_with(edge.token), _SECONDS))
        with _doing(edge, "flood", kind) as flooding:
            await asyncio.to_thread(flooding.readline)
            during = _p95(await steadily(THROUGH, request_with(edge.token), _SECONDS))
            told = await asyncio.to_thread(flooding.readline)
        slower[f"a flood of {kind}"] = during / before
        console.print(f"{kind}: another client's p95 {during:.1f} ms, before {before:.1f} ms; {told.strip()}")
    for kind in HOARDS:
        with _doing(edge, "hoard", kind) as hoarding:
            highest = 0.0
            deadline = time.monotonic() + HOARDS[kind][0]
            while time.monotonic() < deadline:
                await asyncio.sleep(0.25)
                highest = max(highest, _memory(edge))
            told = await asyncio.to_thread(hoarding.readline)
        mib[kind] = highest
        console.print(f"{kind}: {highest:.0f} MiB, {_memory(edge):.0f} MiB afterwards; {told.strip()}")
    return {"slower": slower, "mib": mib}


def _p95(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=20)[18] * 1000


def _memory(edge: Edge) -> float:
    """Return the MiB of both processes."""
    total = 0
    for process in (edge.envoy, edge.gateway):
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


@contextlib.contextmanager
def _doing(edge: Edge, what: str, kind: str) -> Iterator[TextIO]:
    said, writes = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "local.bench_floods", what, kind, edge.token],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=writes,
    )
    os.close(writes)
    with os.fdopen(said) as lines:
        try:
            yield lines
        finally:
            process.terminate()
            process.wait(30)


def _frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


_HEAD = b"\x82\x87\x84"  # GET https /, by HPACK's static table: without a host, so nobody is asked about it
FLOODS: dict[str, Callable[[int], bytes]] = {
    "PING": lambda _: _frame(6, bytes(8)),
    "SETTINGS": lambda _: _frame(4, struct.pack(">HI", 4, 65535)),
    "PRIORITY": lambda number: _frame(2, struct.pack(">IB", 0, 16), stream=2 * (number % 1000) + 3),
    "unknown frames": lambda _: _frame(99, bytes(8)),
    "empty DATA": lambda number: _frame(1, _HEAD, flags=0x4, stream=1) if not number else _frame(0, stream=1),
    "WINDOW_UPDATE": lambda _: _frame(8, struct.pack(">I", 1)),
    "CONTINUATION": lambda number: _frame(1, _HEAD, stream=1) if not number else _frame(9, stream=1),
    "resets": lambda number: (
        _frame(1, _HEAD, flags=0x4, stream=2 * number + 1)
        + _frame(3, struct.pack(">I", 8), stream=2 * number + 1)
    ),
}
"""By name, the frame with that number: each costs its sender nothing."""


def _flood(kind: str) -> None:
    """Flood one connection, reading what comes; open another one when it is ended."""
    blocks = [b"".join(FLOODS[kind](first + one) for one in range(_AT_ONCE)) for first in (0, _AT_ONCE)]
    sent = opened = volume = 0
    _say("begins")
    began = time.monotonic()
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), _connected("h2") as connection:
            opened += 1
            connection.sendall(_PREFACE + _frame(4))
            connection.setblocking(False)
            block = blocks[0] if kind != "resets" else b""
            for number in itertools.count():
                if kind == "resets":
                    first = number * _AT_ONCE
                    block = b"".join(FLOODS[kind](first + one) for one in range(_AT_ONCE))
                _send(connection, block, deadline)
                sent += _AT_ONCE
                volume += len(block)
                # Loopback is faster than any client's line.
                time.sleep(max(0.0, volume / _BYTES_A_SECOND - (time.monotonic() - began)))
                block = blocks[1]
                if time.monotonic() > deadline:
                    break
    _say(f"{sent} frames sent on {opened} connections")


def _send(connection: ssl.SSLSocket, block: bytes, deadline: float) -> None:
    """Send all of it, and read meanwhile what comes, so that the other side never has to wait."""
    view = memoryview(block)
    while view and time.monotonic() < deadline:
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if not connection.recv(65536):
                raise ConnectionResetError
        try:
            view = view[connection.send(view) :]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            select.select([connection], [connection], [], 0.1)


def _unread_streams(token: str, seconds: float) -> None:
    """Ask for a GiB on each stream of several HTTP/2 connections, and give none a byte of room."""
    connections = []
    for _ in range(8):
        h2 = H2Connection(H2Configuration())
        h2.initiate_connection()
        h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        connection = _connected("h2")
        connection.sendall(h2.data_to_send())
        for number in range(128):
            h2.send_headers(2 * number + 1, _headers(token, "GET", "/down"), end_stream=True)
        connection.sendall(h2.data_to_send())
        connections.append(connection)
    _keep(connections, seconds)


def _slow_readers(token: str, seconds: float) -> None:
    """Ask for a GiB on many HTTP/1.1 connections, and read none of it."""
    request = request_with(token).replace(b"/hello", b"/down")
    connections = []
    for _ in range(200):
        connection = _connected("http/1.1")
        connection.sendall(request)
        connections.append(connection)
    _keep(connections, seconds)


def _held_bodies(token: str, seconds: float) -> None:
    """Send as much of many bodies as is taken, to an agent that reads none."""
    connections = []
    for _ in range(10):
        h2 = H2Connection(H2Configuration())
        h2.initiate_connection()
        connection = _connected("h2")
        connection.sendall(h2.data_to_send())
        while not h2.remote_settings.initial_window_size or h2.outbound_flow_control_window <= 65535:
            h2.receive_data(connection.recv(65536))
            connection.sendall(h2.data_to_send())
        for number in range(100):
            stream = 2 * number + 1
            h2.send_headers(stream, _headers(token, "POST", "/hello"))
            for _ in range(4):
                room = min(h2.local_flow_control_window(stream), h2.max_outbound_frame_size)
                if room:
                    h2.send_data(stream, bytes(room))
        connection.settimeout(2)
        with contextlib.suppress(TimeoutError):
            connection.sendall(h2.data_to_send())
        connections.append(connection)
    _keep(connections, seconds)


def _idle_connections(_: str, seconds: float) -> None:
    """Open as many connections as may be, and say nothing on any."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (_IDLE + 500, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    connections = []
    for _number in range(_IDLE - 100):
        with contextlib.suppress(OSError):
            connections.append(_connected("h2"))
    _keep(connections, seconds)


def _keep(connections: Sequence[ssl.SSLSocket], seconds: float) -> None:
    """Keep them for a while, reading nothing."""
    time.sleep(seconds / 2)
    _say(f"{len(connections)} connections")
    time.sleep(seconds)


HOARDS: dict[str, tuple[float, Callable[[str, float], None]]] = {
    "8 HTTP/2 connections by 128 answers that nobody reads": (15, _unread_streams),
    "200 slow readers": (15, _slow_readers),
    "1,000 bodies that nobody reads": (15, _held_bodies),
    "10,000 idle connections": (40, _idle_connections),
}
"""By name, how many seconds it is watched for, and what is done."""


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _headers(token: str, method: str, path: str) -> list[tuple[str, str]]:
    return [
        (":method", method),
        (":scheme", "https"),
        (":path", path),
        (":authority", bench_gateway.HOST),
        ("authorization", f"Bearer {token}"),
    ]


def _connected(protocol: str) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    plain = socket.create_connection((THROUGH.address, THROUGH.port), timeout=20)
    return context.wrap_socket(plain, server_hostname=bench_gateway.HOST)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["flood", kind, _]:
            _flood(kind)
        case ["hoard", kind, token]:
            HOARDS[kind][1](token, HOARDS[kind][0])
        case _:
            bench_cluster.main(_measure)
