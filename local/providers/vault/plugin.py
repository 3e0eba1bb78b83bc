"""The plugin: its configuration and the types that it has."""

import os
from pathlib import Path
from typing import Any

from local.providers.bridged import configuration
from local.providers.provider import Call, Failure, Provider, Resource, by_token
from local.providers.values import Properties
from local.providers.vault.database import Connection, DatabaseRole
from local.providers.vault.jwt import JwtBackend, JwtRole
from local.providers.vault.kubernetes import KubernetesConfig, KubernetesRole
from local.providers.vault.kv import KvConfig, KvSecret
from local.providers.vault.mounts import AuthBackend, Mount
from local.providers.vault.policy import Policy
from local.providers.vault.quota import RateLimit
from local.providers.vault.server import PACKAGE, Settings, Vault

_FROM_ENVIRONMENT = {
    "address": "VAULT_ADDR",
    "token": "VAULT_TOKEN",
    "tokenName": "VAULT_TOKEN_NAME",
    "namespace": "VAULT_NAMESPACE",
    "caCertFile": "VAULT_CACERT",
    "caCertDir": "VAULT_CAPATH",
    "tlsServerName": "VAULT_TLS_SERVER_NAME",
    "skipTlsVerify": "VAULT_SKIP_VERIFY",
    "skipChildToken": "TERRAFORM_VAULT_SKIP_CHILD_TOKEN",
    "maxLeaseTtlSeconds": "TERRAFORM_VAULT_MAX_TTL",
    "maxRetries": "VAULT_MAX_RETRIES",
}
_WITHOUT_EFFECT = {"addAddressToEnv", "skipGetVaultVersion", "setNamespaceFromToken", "maxRetriesCcc"}
"""They say how to start other programs, to ask for versions, or to use what only Vault Enterprise has."""


class VaultPlugin(Provider):
    """The stand-in for pulumi-vault."""

    name = "vault"
    version = "7.14.0"

    def __init__(self) -> None:
        """Connect to nothing yet."""
        self._vault = Vault()
        self._types: dict[str, Resource] = {
            "vault:index/mount:Mount": Mount(self._vault),
            "vault:index/policy:Policy": Policy(self._vault),
            "vault:index/quotaRateLimit:QuotaRateLimit": RateLimit(self._vault),
            "vault:index/authBackend:AuthBackend": AuthBackend(self._vault),
            "vault:kubernetes/authBackendConfig:AuthBackendConfig": KubernetesConfig(self._vault),
            "vault:kubernetes/authBackendRole:AuthBackendRole": KubernetesRole(self._vault),
            "vault:jwt/authBackend:AuthBackend": JwtBackend(self._vault),
            "vault:jwt/authBackendRole:AuthBackendRole": JwtRole(self._vault),
            "vault:database/secretBackendConnection:SecretBackendConnection": Connection(self._vault),
            "vault:database/secretBackendRole:SecretBackendRole": DatabaseRole(self._vault),
            "vault:kv/secretV2:SecretV2": KvSecret(self._vault),
            "vault:kv/secretBackendV2:SecretBackendV2": KvConfig(self._vault),
        }

    def check_config(self, call: Call, config: Properties) -> tuple[Properties, list[Failure]]:  # noqa: D102
        defaults = {
            "skipTlsVerify": os.environ.get("VAULT_SKIP_VERIFY"),
            "maxLeaseTtlSeconds": os.environ.get("TERRAFORM_VAULT_MAX_TTL", "1200"),
            "maxRetries": os.environ.get("VAULT_MAX_RETRIES", "2"),
        }
        supported = _FROM_ENVIRONMENT.keys() | _WITHOUT_EFFECT
        return configuration(PACKAGE, call, config, supported, defaults)

    def configure(self, config: Properties) -> None:  # noqa: D102
        environment = {
            name: os.environ[variable]
            for name, variable in _FROM_ENVIRONMENT.items()
            if os.environ.get(variable)
        }
        written = {
            name: value
            for name, value in PACKAGE.provider.check("provider", config)[0].items()
            if value != ""
        }
        given: dict[str, Any] = {**environment, **written}
        self._vault.settings = Settings(
            address=given.get("address", ""),
            token=given.get("token") or _kept_token(),
            token_name=given.get("tokenName", "terraform"),
            namespace=given.get("namespace"),
            ca=given.get("caCertFile") or given.get("caCertDir"),
            server_name=given.get("tlsServerName"),
            skip_tls_verify=_is_true(given.get("skipTlsVerify")),
            skip_child_token=_is_true(given.get("skipChildToken")),
            max_lease_ttl=int(given.get("maxLeaseTtlSeconds", 1200)),
            max_retries=int(given.get("maxRetries", 2)),
        )

    def resource(self, token: str) -> Resource:  # noqa: D102
        return by_token(self.name, self._types, token)


def _is_true(value: Any) -> bool:
    return str(value).lower() in ("true", "1")


def _kept_token() -> str:
    """The token that `vault login` keeps."""
    file = Path.home() / ".vault-token"
    return file.read_text().strip() if file.is_file() else ""
