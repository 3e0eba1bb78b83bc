"""The most that a tenant may have in PostgreSQL, where the platform looks each minute who has more.

`SizeLimitProvider` runs in Pulumi's host for dynamic resources; what is serialised of it is its name.
"""

from typing import TYPE_CHECKING, Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, ResourceProvider, UpdateResult

from infra.platform.administrator import connect
from infra.tenants.differences import differences

if TYPE_CHECKING:
    from infra.platform.database import Database

_GIB = 2**30


class SizeLimitProvider(ResourceProvider):
    """Writes the limit of a schema down in the database that all tenants share."""

    serialize_as_secret_always = False

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """Another schema is another resource."""
        return differences(olds, news, stable=("schema",))

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Write it down; one that stands there is overwritten."""
        _write(props)
        return CreateResult(props["schema"], props)

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """The limit that is written down; gone if there is none."""
        with connect(props) as connection:
            found = connection.execute(
                "SELECT bytes FROM agent_platform.limits WHERE schema = %s", [id_]
            ).fetchone()
        return ReadResult(id_, {**props, "gib": found[0] / _GIB}) if found else ReadResult("", {})

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Overwrite it."""
        _write(news)
        return UpdateResult(news)

    def delete(self, id_: str, props: dict[str, Any]) -> None:
        """Forget it."""
        with connect(props) as connection:
            connection.execute("DELETE FROM agent_platform.limits WHERE schema = %s", [id_])


class SizeLimit(Resource, module="agent-platform", name="SizeLimit"):
    """The most that a tenant's schema, and its own database if it has one, may hold."""

    def __init__(
        self,
        resource_name: str,
        *,
        schema: pulumi.Input[str],
        gib: int,
        database: "Database",
        opts: pulumi.ResourceOptions,
    ) -> None:
        """Declare the limit of `schema` in GiB; `database` is the one that all tenants share."""
        super().__init__(
            _PROVIDER,
            resource_name,
            {"schema": schema, "gib": gib, "control": database.control_schema, **database.entrance()},
            pulumi.ResourceOptions.merge(
                opts, pulumi.ResourceOptions(additional_secret_outputs=["password"])
            ),
        )


_PROVIDER = SizeLimitProvider()


def _write(props: dict[str, Any]) -> None:
    with connect(props) as connection:
        connection.execute(
            "INSERT INTO agent_platform.limits (schema, bytes) VALUES (%s, %s) "
            "ON CONFLICT (schema) DO UPDATE SET bytes = excluded.bytes",
            [props["schema"], int(props["gib"] * _GIB)],
        )
