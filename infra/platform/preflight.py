"""Whether the services that are given can be entered, asked before anything is changed."""

import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator

import psycopg
from pydantic import SecretStr

from infra.errors import ConfigurationError
from infra.settings import NAMESPACE, GivenDatabase, GivenVault, Settings

_PATIENCE = 10
"""Seconds a service may take to answer."""


def require_given_services(settings: Settings) -> None:
    """Enter PostgreSQL and Vault, where they are given.

    Raises:
        ConfigurationError: naming every one that cannot be entered. Nothing has been changed then.
    """
    mistakes = list(_mistakes(settings))
    if mistakes:
        lines = "\n".join(f"  - {NAMESPACE}:{mistake}" for mistake in mistakes)
        raise ConfigurationError(
            f"A service the platform is given cannot be used; nothing was changed.\n{lines}"
        )


def _mistakes(settings: Settings) -> Iterator[str]:
    if not settings.owns("platform"):
        return
    if settings.database.given:
        yield from _database(settings.database.given, settings.database_admin_password)
    if settings.vault.given:
        yield from _vault(settings.vault.given, settings.vault_token)


def _database(given: GivenDatabase, password: SecretStr | None) -> Iterator[str]:
    try:
        psycopg.connect(
            host=given.host,
            port=given.port,
            dbname=given.name,
            user=given.admin_user,
            password=password.get_secret_value() if password else None,
            sslmode=given.ssl_mode,
            connect_timeout=_PATIENCE,
        ).close()
    except psycopg.OperationalError as error:
        reason = " ".join(str(error).split())
        yield (
            f"database.given: PostgreSQL at {given.host}:{given.port} lets nobody in, so no tenant could get "
            f"a schema ({reason}); start it, or correct the address or {NAMESPACE}:databaseAdminPassword"
        )


def _vault(given: GivenVault, token: SecretStr | None) -> Iterator[str]:
    request = urllib.request.Request(  # noqa: S310 — the settings let http and https through, nothing else
        f"{given.address}/v1/auth/token/lookup-self",
        headers={"X-Vault-Token": token.get_secret_value() if token else ""},
    )
    try:
        trusted = ssl.create_default_context(cafile=os.environ.get("VAULT_CACERT"))
        urllib.request.urlopen(request, timeout=_PATIENCE, context=trusted).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        with error:
            yield f"vault.given: Vault at {given.address} refuses us ({_vault_reason(error)})"
    except (urllib.error.URLError, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        yield (
            f"vault.given: nothing answers at {given.address}, so no tenant could get a secret ({reason}); "
            "start Vault or correct the address"
        )


def _vault_reason(error: urllib.error.HTTPError) -> str:
    if error.code == 403:
        return f"the token is not valid; run: pulumi config set --secret {NAMESPACE}:vaultToken"
    try:
        errors = json.loads(error.read())["errors"]
    except (ValueError, KeyError, TypeError):
        errors = []
    reason = "; ".join(map(str, errors)) or error.reason
    return f"{error.code}: {reason}; a sealed Vault has to be unsealed first"
