"""The plugin: its configuration and the types that it has."""

import os
from typing import Any

from local.providers.bridged import configuration
from local.providers.postgresql.databases import Database
from local.providers.postgresql.default_privileges import DefaultPrivileges
from local.providers.postgresql.grant import Grant
from local.providers.postgresql.membership import GrantRole
from local.providers.postgresql.role import Role
from local.providers.postgresql.schemas import PostgresSchema
from local.providers.postgresql.server import PACKAGE, Server, Settings
from local.providers.provider import Call, Failure, Provider, Resource, by_token
from local.providers.values import Properties

_FROM_ENVIRONMENT = {
    "host": "PGHOST",
    "port": "PGPORT",
    "database": "PGDATABASE",
    "username": "PGUSER",
    "password": "PGPASSWORD",
    "sslmode": "PGSSLMODE",
    "superuser": "PGSUPERUSER",
    "connectTimeout": "PGCONNECT_TIMEOUT",
}
_SUPPORTED = {*_FROM_ENVIRONMENT, "maxConnections", "sslrootcert", "databaseUsername"}


class PostgreSQL(Provider):
    """The stand-in for pulumi-postgresql."""

    name = "postgresql"
    version = "3.18.2"

    def __init__(self) -> None:
        """Connect to nothing yet."""
        self._server = Server()
        self._types: dict[str, Resource] = {
            "postgresql:index/role:Role": Role(self._server),
            "postgresql:index/database:Database": Database(self._server),
            "postgresql:index/schema:Schema": PostgresSchema(self._server),
            "postgresql:index/grant:Grant": Grant(self._server),
            "postgresql:index/defaultPrivileges:DefaultPrivileges": DefaultPrivileges(self._server),
            "postgresql:index/grantRole:GrantRole": GrantRole(self._server),
        }

    def check_config(self, call: Call, config: Properties) -> tuple[Properties, list[Failure]]:  # noqa: D102
        defaults = {"sslmode": os.environ.get("PGSSLMODE")}
        return configuration(PACKAGE, call, config, _SUPPORTED, defaults)

    def configure(self, config: Properties) -> None:  # noqa: D102
        environment = {
            name: os.environ[variable]
            for name, variable in _FROM_ENVIRONMENT.items()
            if os.environ.get(variable)
        }
        given: dict[str, Any] = {**environment, **PACKAGE.provider.check("provider", config)[0]}
        self._server.settings = Settings(
            host=given.get("host", "localhost"),
            port=int(given.get("port", 5432)),
            database=given.get("database", "postgres"),
            username=given.get("username", "postgres"),
            password=given.get("password", ""),
            database_username=given.get("databaseUsername") or given.get("username", "postgres"),
            superuser=str(given.get("superuser", True)).lower() in ("true", "1"),
            sslmode=given.get("sslmode", "require"),
            sslrootcert=given.get("sslrootcert"),
            connect_timeout=int(given.get("connectTimeout", 180)),
            max_connections=int(given.get("maxConnections", 20)),
        )

    def resource(self, token: str) -> Resource:  # noqa: D102
        return by_token(self.name, self._types, token)
