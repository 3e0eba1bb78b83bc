"""Redis, to which a tenant has no credentials: entered with none, and with every word that it does hold."""

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from redis import Redis
from redis import exceptions as errors
from redis.backoff import NoBackoff
from redis.retry import Retry

from local import credentials, ports
from local.attack.attempt import Attack, Refused, Target
from local.attack.tenants import Tenant

_REFUSALS = (errors.AuthenticationError, errors.NoPermissionError)
"""NOAUTH, WRONGPASS and NOPERM."""
_COMMON = ("", "redis", "password")
_SERVICES = ("gateway", "idle-suspender")
"""The platform's services, which have users of their own there."""


@dataclass(frozen=True)
class Session:
    """The connections that somebody got: one without credentials, and those whose password was right."""

    connections: Sequence[Redis]

    def call(self, *command: str) -> None:
        """One command on each connection; Refused if none of them may."""
        refusal = ""
        for connection in self.connections:
            try:
                connection.execute_command(*command)  # type: ignore[no-untyped-call]
            except _REFUSALS as error:
                refusal = str(error)
            else:
                return
        raise Refused(refusal)


def _log_in(session: Session, _own: Tenant, _victim: Tenant) -> None:
    if len(session.connections) < 2:
        raise Refused("no user with no password that it could know")


def _key(tenant: Tenant) -> str:
    return f"activity:{tenant.id}"


def _on_tenant(name: str, *command: str) -> Attack[Session]:
    """A command on the victim's key; in it, {} is that key."""
    return Attack(
        name=name,
        tried=" ".join(command).replace("{}", "activity:VICTIM"),
        run=lambda session, _own, victim: session.call(
            *(word.replace("{}", _key(victim)) for word in command)
        ),
        by_owner=False,
    )


def _on_platform(name: str, *command: str) -> Attack[Session]:
    return Attack(
        name=name,
        tried=" ".join(command),
        run=lambda session, _own, _victim: session.call(*command),
        on_platform=True,
    )


_ATTACKS = (
    Attack(name="log in", tried="AUTH with every word it holds", run=_log_in, on_platform=True),
    # Whatever writes, writes nothing new: the key is there, and is the platform's to read.
    _on_tenant("read when a tenant was active", "HGETALL", "{}"),
    _on_tenant("see whether a tenant is known", "EXISTS", "{}"),
    _on_tenant("set when a tenant was active", "SET", "{}", "0", "NX"),
    _on_tenant("move a tenant's key", "RENAMENX", "{}", "{}"),
    _on_tenant(
        "write a tenant's key by a script", "EVAL", "return redis.call('SETNX', KEYS[1], 0)", "1", "{}"
    ),
    _on_tenant("copy a tenant's key", "COPY", "{}", "{}:attack", "REPLACE"),
    _on_tenant("delete a key next to a tenant's", "DEL", "{}:attack"),
    _on_platform("list keys", "KEYS", "*"),
    _on_platform("scan keys", "SCAN", "0"),
    _on_platform("exchange databases", "SWAPDB", "14", "15"),
    _on_platform("read the configuration", "CONFIG", "GET", "*"),
    _on_platform("change the configuration", "CONFIG", "SET", "slowlog-max-len", "128"),
    _on_platform("list users", "ACL", "LIST"),
    _on_platform("make a user", "ACL", "SETUSER", "attack", "off"),
    _on_platform("list connections", "CLIENT", "LIST"),
    _on_platform("end a connection", "CLIENT", "KILL", "TYPE", "replica"),
    _on_platform("list channels", "PUBSUB", "CHANNELS"),
    _on_platform("publish", "PUBLISH", "attack", "attack"),
    _on_platform("read the slow log", "SLOWLOG", "GET"),
    _on_platform("replicate from another server", "REPLICAOF", "NO", "ONE"),
)


@contextmanager
def entered(tenants: Sequence[Tenant]) -> Iterator[Target[Session]]:
    """See that every tenant has a key, as the gateway writes it, and remove afterwards what was missing."""
    with ExitStack() as stack:
        administrator = entered_with([("default", credentials.secret("redis"))], stack)
        _, known = administrator.connections
        stack.callback(known.execute_command, "ACL", "DELUSER", "attack")
        for tenant in tenants:
            stack.callback(known.delete, f"{_key(tenant)}:attack")
            if known.hsetnx(_key(tenant), "seen", str(time.time())):
                stack.callback(known.hdel, _key(tenant), "seen")
        yield Target(
            server="Redis",
            sessions={tenant: entered_with(_pairs(tenant), stack) for tenant in tenants},
            victims=tenants,
            administrator=administrator,
            attacks=_ATTACKS,
        )


def _pairs(tenant: Tenant) -> Iterator[tuple[str, str]]:
    """Every name that it could have there with every word that it holds, or that is common."""
    words = (*_COMMON, tenant.login[1], tenant.key["secret_key"], tenant.vault.token)
    return itertools.product(("default", *_SERVICES, tenant.id, tenant.role), words)


def entered_with(pairs: Iterable[tuple[str, str]], stack: ExitStack) -> Session:
    """Connect without credentials, and with each of these that is right."""
    connections = [_connect(None, None, stack)]
    for user, password in pairs:
        with suppress(errors.AuthenticationError):
            connections.append(_connect(user, password, stack))
    return Session(connections)


def _connect(user: str | None, password: str | None, stack: ExitStack) -> Redis:
    """Connect.

    Raises:
        AuthenticationError: there is no such user with that password.
    """
    connection = Redis(
        host="127.0.0.1",
        port=ports.port("redis"),
        username=user,
        password=password,
        protocol=2,
        lib_name=None,
        lib_version=None,
        # A wrong password does not become right by being tried again.
        retry=Retry(NoBackoff(), 0),
    )
    stack.callback(connection.close)
    if password is not None:
        with suppress(errors.NoPermissionError):
            connection.ping()
    return connection
