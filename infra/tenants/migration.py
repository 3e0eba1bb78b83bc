"""A tenant's tables as a resource: its revision is an input, so a preview shows which schemas a step touches.

`MigrationProvider` runs in Pulumi's host for dynamic resources; what is serialised of it is its name. It
imports Alembic only when there is something to do: every update waits for that host to start.
"""

from typing import TYPE_CHECKING, Any

import pulumi
from pulumi.dynamic import (
    CheckFailure,
    CheckResult,
    CreateResult,
    DiffResult,
    ReadResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)

from infra.tenants.differences import differences

if TYPE_CHECKING:
    from infra.platform.database import Database


class MigrationProvider(ResourceProvider):
    """Brings a schema to a revision, never back."""

    serialize_as_secret_always = False

    def check(self, olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Refuse a way back while it is still a preview."""
        old, new = olds.get("revision"), news.get("revision")
        if not old or not new or old == new:
            return CheckResult(news, [])
        from infra.tenants import migrations

        failures = []
        if migrations.is_behind(new, old):
            failures.append(CheckFailure("revision", migrations.no_way_back(news["schema"], old, new)))
        return CheckResult(news, failures)

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """Another schema is another resource; a changed way into the database is only taken note of."""
        return differences(olds, news, stable=("schema",))

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Take the steps that the schema has not taken yet, be it none."""
        from infra.tenants.migrations import runner

        runner.upgrade(props)
        return CreateResult(props["schema"], props)

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """The revision the schema is on, and what of its tables is missing; gone if it has none of ours."""
        from infra.tenants.migrations import runner

        if "control" not in props:
            return ReadResult(id_, props)  # of before there was a record, which the next update makes
        revision = runner.revision(props, id_)
        if not revision:
            return ReadResult("", {})
        missing = runner.lacking(props, id_, revision)
        if missing is None:
            missing = props["missing"]  # not seen this time
        return ReadResult(id_, {**props, "revision": revision, "missing": missing})

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Take the steps in between."""
        from infra.tenants.migrations import runner

        runner.upgrade(news)
        return UpdateResult(news)

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Empty the schema, whoever else is in there, so that it can go; a database of its own goes whole."""
        from infra.tenants.migrations import removal

        if props["database"] != props["schema"] and "control" in props:
            removal.empty(props)


class Migration(Resource, module="agent-platform", name="Migration"):
    """The tables of a tenant's schema, at a revision."""

    def __init__(
        self,
        resource_name: str,
        *,
        schema: pulumi.Input[str],
        database: "Database",
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Declare that `schema`, owned by the role of the same name, is on the newest revision.

        It holds data, as the schema does: whoever deletes it deletes what is in there.
        """
        from infra.tenants import migrations

        super().__init__(
            _PROVIDER,
            resource_name,
            {
                "schema": schema,
                "revision": migrations.head(),
                "missing": [],
                "control": database.control_schema,
                **database.entrance(),
            },
            pulumi.ResourceOptions.merge(
                opts, pulumi.ResourceOptions(additional_secret_outputs=["password"])
            ),
        )


_PROVIDER = MigrationProvider()
