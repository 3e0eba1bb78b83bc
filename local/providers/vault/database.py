"""The database engine: its connection to PostgreSQL, and the roles for which it makes logins."""

from typing import Any

from local.providers.bridged import DEFAULTS, Property, table
from local.providers.provider import Call, Failure, ProviderError
from local.providers.values import Properties, Secret
from local.providers.vault.server import VaultResource, changed, seconds, told, written

_BLOCK_DEFAULTS = {"maxOpenConnections": 2, "passwordAuthentication": "password"}
_BLOCK_SECRETS = ("password", "privateKey")
_BLOCK = (
    "connectionUrl",
    "maxOpenConnections",
    "maxIdleConnections",
    "username",
    "usernameTemplate",
    "disableEscaping",
    "tlsCa",
    "tlsCertificate",
    "privateKey",
    "passwordAuthentication",
)
_COMMON = ("passwordPolicy", "pluginVersion", "rootRotationStatements")


class Connection(VaultResource):
    """`vault:database/secretBackendConnection:SecretBackendConnection`, for PostgreSQL only."""

    properties = table(
        name=Property(),
        backend=Property(replaces=True, normal=lambda path: path.strip("/")),
        allowedRoles=Property(),
        verifyConnection=Property(default=True),
        pluginName=Property(computed=True),
        pluginVersion=Property(),
        passwordPolicy=Property(),
        rootRotationStatements=Property(),
        postgresql=Property(),
    )

    def check(self, call: Call, old: Properties, new: Properties) -> tuple[Properties, list[Failure]]:  # noqa: D102
        inputs, failures = super().check(call, old, new)
        block = inputs.get("postgresql")
        if isinstance(block, dict):
            supported = {*_BLOCK, *_BLOCK_SECRETS, "maxConnectionLifetime"}
            failures += [
                Failure(
                    "",
                    "the stand-in does not support this property; put the official plugin on PATH. "
                    f"Examine values at '{call.name}.postgresql.{name}'.",
                )
                for name in sorted(block.keys() - supported - {DEFAULTS})
            ]
            secrets = {name: Secret(block[name]) for name in _BLOCK_SECRETS if name in block}
            added = _BLOCK_DEFAULTS.keys() - block.keys()
            inputs["postgresql"] = {**_BLOCK_DEFAULTS, **block, **secrets, DEFAULTS: sorted(added)}
        return inputs, failures

    def make(self, call: Call, inputs: Properties) -> str:  # noqa: D102
        path = f"{inputs['backend'].strip('/')}/config/{inputs['name'].strip('/')}"
        self.change(call, path, {}, inputs)
        return path

    def find(self, id: str, known: Properties) -> Properties | None:  # noqa: D102
        backend, separator, name = id.partition("/config/")
        if not separator:
            raise ProviderError(f'invalid path "{id}" for database connection: no name found')
        data = self.vault.read(id, f'error reading database connection config "{id}"')
        if data is None:
            return None
        return {
            **told(data, ("allowedRoles", "pluginName", "passwordPolicy", "pluginVersion")),
            "backend": backend,
            "name": name,
            "verifyConnection": known.get("verifyConnection"),
            "rootRotationStatements": data.get("root_credentials_rotate_statements") or [],
            "postgresql": _block(data["connection_details"], known.get("postgresql", {})),
        }

    def change(self, call: Call, id: str, old: Properties, new: Properties) -> None:  # noqa: D102
        del call
        block, before = new.get("postgresql"), old.get("postgresql", {})
        if not block:
            raise ProviderError("no supported database engines configured")
        data: dict[str, Any] = {
            "plugin_name": new.get("pluginName") or old.get("pluginName") or "postgresql-database-plugin",
            "verify_connection": new["verifyConnection"],
            "allowed_roles": ",".join(new.get("allowedRoles", ())),
            "disable_escaping": False,
            "username": "",
            "max_idle_connections": 0,
            **written(block, _BLOCK),
            "max_connection_lifetime": f"{block.get('maxConnectionLifetime', 0)}s",
            **written(new, _COMMON),
        }
        # Vault may have changed the password itself since: only another one is sent.
        if block.get("password") and block["password"] != before.get("password"):
            data["password"] = block["password"]
        self.vault.write(id, data, f'error configuring database connection "{id}"')

    def drop(self, id: str, known: Properties) -> None:  # noqa: D102
        del known
        self.vault.delete(id, f'error removing database connection config "{id}"')


def _block(details: Properties, known: Properties) -> Properties:
    """The connection as Vault tells it; it tells no secret, and the URL only with what it put in."""
    kept = {name: known[name] for name in ("connectionUrl", *_BLOCK_SECRETS) if known.get(name)}
    lifetime = seconds(details.get("max_connection_lifetime", "0s"))
    block = {**told(details, _BLOCK), "maxConnectionLifetime": lifetime, **kept}
    return {name: value for name, value in block.items() if value is not None}


_STATEMENTS = ("creationStatements", "revocationStatements", "rollbackStatements", "renewStatements")
_ROLE = (*_STATEMENTS, "defaultTtl", "maxTtl", "credentialType", "credentialConfig")


class DatabaseRole(VaultResource):
    """`vault:database/secretBackendRole:SecretBackendRole`; its id is its path."""

    properties = table(
        name=Property(replaces=True),
        backend=Property(replaces=True),
        dbName=Property(replaces=True),
        **{name: Property() for name in _STATEMENTS},
        defaultTtl=Property(),
        maxTtl=Property(),
        credentialType=Property(computed=True),
        credentialConfig=Property(),
    )

    def make(self, call: Call, inputs: Properties) -> str:  # noqa: D102
        path = f"{inputs['backend'].strip('/')}/roles/{inputs['name'].strip('/')}"
        self.change(call, path, {}, inputs)
        return path

    def find(self, id: str, known: Properties) -> Properties | None:  # noqa: D102
        del known
        backend, separator, name = id.partition("/roles/")
        if not separator:
            raise ProviderError(f'invalid role ID "{id}": no name found')
        data = self.vault.read(id, f'error reading role "{id}"')
        if data is None:
            return None
        return {**told(data, ("dbName", *_ROLE)), "backend": backend, "name": name}

    def change(self, call: Call, id: str, old: Properties, new: Properties) -> None:  # noqa: D102
        del call
        known = {**self._computed(old), **new}
        data = {
            "db_name": new["dbName"],
            "creation_statements": new["creationStatements"],
            **changed(old, known, _STATEMENTS, []),
            **changed(old, known, ("defaultTtl", "maxTtl"), 0),
            **changed(old, known, ("credentialType",), ""),
            **changed(old, known, ("credentialConfig",), {}),
        }
        failing = f'error creating role "{new["name"]}" for backend "{new["backend"]}"'
        self.vault.write(id, data, failing)

    def drop(self, id: str, known: Properties) -> None:  # noqa: D102
        del known
        self.vault.delete(id, f'error deleting role "{id}"')
