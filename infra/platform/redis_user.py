"""A user of a Redis that is given, with its rights: made, changed and deleted by whoever administers it.

`RedisUserProvider` runs in Pulumi's host for dynamic resources; what is serialised of it is its name.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pulumi
from pulumi.dynamic import (
    CreateResult,
    DiffResult,
    ReadResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)

if TYPE_CHECKING:
    import redis

_PATIENCE = 15


class RedisUserProvider(ResourceProvider):
    """Keeps one user."""

    serialize_as_secret_always = False

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Make the user; one of that name becomes as it is wanted."""
        _set(props)
        return CreateResult(props["name"], props)

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """Rights and password may change; another name is another user."""
        changed = any(olds.get(key) != value for key, value in news.items() if not key.startswith("__"))
        replaces = ["name"] if olds["name"] != news["name"] else []
        return DiffResult(changes=changed, replaces=replaces, stables=["name"])

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """As declared if there is such a user; an empty id if Redis has lost it."""
        with _administering(props) as server:
            users: Any = server.acl_users()
        return ReadResult(id_, props) if props["name"] in users else ReadResult("", {})

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Give it the password and the rights that it has now, and no others."""
        _set(news)
        return UpdateResult(news)

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Delete the user, which ends its connections."""
        with _administering(props) as server:
            server.acl_deluser(props["name"])
            server.acl_save()


class RedisUser(Resource, module="agent-platform", name="RedisUser"):
    """A user of Redis."""

    def __init__(
        self,
        resource_name: str,
        *,
        name: str,
        password: pulumi.Output[str],
        rights: str,
        server: dict[str, Any],
        opts: pulumi.ResourceOptions,
    ) -> None:
        """Declare the user on `server`: `host`, `port`, `tls` and the administrator's `password`.

        `rights` are rules of `ACL SETUSER`, <https://valkey.io/topics/acl/>.
        """
        super().__init__(
            _PROVIDER,
            resource_name,
            {"name": name, "password": pulumi.Output.secret(password), "rights": rights, "server": server},
            pulumi.ResourceOptions.merge(
                opts, pulumi.ResourceOptions(additional_secret_outputs=["password", "server"])
            ),
        )


_PROVIDER = RedisUserProvider()


def _set(props: dict[str, Any]) -> None:
    with _administering(props) as server:
        rules = ["reset", "on", f">{props['password']}", *props["rights"].split()]
        run: Any = server.execute_command
        run("ACL SETUSER", props["name"], *rules)
        server.acl_save()


@contextmanager
def _administering(props: dict[str, Any]) -> "Iterator[redis.Redis]":
    """The server, entered as its default user; whatever goes wrong is told without a password."""
    import redis

    where = props["server"]
    try:
        with redis.Redis(
            host=where["host"],
            port=int(where["port"]),
            password=where["password"],
            ssl=where["tls"],
            socket_timeout=_PATIENCE,
        ) as server:
            yield server
    except redis.RedisError as error:
        raise RuntimeError(
            f"Redis at {where['host']}:{int(where['port'])} does not keep the user {props['name']}: {error}. "
            "Its default user has to be an administrator, and its configuration has to name an aclfile, or "
            "it would forget its users when it restarts"
        ) from None
