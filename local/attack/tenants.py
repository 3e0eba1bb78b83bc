"""The tenants as attackers: every credential that the platform gives each of them, obtained as it does."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import hvac  # type: ignore[import-untyped]
from hvac.exceptions import VaultError  # type: ignore[import-untyped]
from kubernetes import client as kubernetes_client

from local.errors import LocalError
from local.servers import kubernetes, postgres, vault


@dataclass(frozen=True)
class Account:
    """A service account of the cluster."""

    namespace: str
    name: str


class Tenant:
    """One tenant: its names, and its credentials, each asked for once."""

    def __init__(self, summary: Mapping[str, Any]) -> None:
        """Take what the program exports of the tenant."""
        self.id = str(summary["id"])
        self.schema = str(summary["schema"])
        self.database = str(summary.get("database") or postgres.DATABASE)
        self.prefix = str(summary["prefix"])
        self.role = f"tenant-{self.id}"
        """Its name in Vault."""
        self.namespace: str | None = summary.get("namespace") or None
        self.machine: str | None = summary.get("vm") or None

    @cached_property
    def account(self) -> Account:
        """The account that Vault takes for it; without a namespace of its own, the shared runtime's."""
        bound = operator().read(f"auth/kubernetes/role/{self.role}")["data"]
        return Account(bound["bound_service_account_namespaces"][0], bound["bound_service_account_names"][0])

    @cached_property
    def account_token(self) -> str:
        """What is mounted into its machine or pod."""
        request = kubernetes_client.AuthenticationV1TokenRequest(
            spec=kubernetes_client.V1TokenRequestSpec(audiences=[])
        )
        core = kubernetes_client.CoreV1Api(kubernetes.client())
        issued: Any = core.create_namespaced_service_account_token(
            self.account.name, self.account.namespace, request
        )
        return str(issued.status.token)

    @cached_property
    def vault(self) -> hvac.Client:
        """Vault, entered with that token."""
        entered = hvac.Client(url=vault.url())
        entered.auth.kubernetes.login(role=self.role, jwt=self.account_token)
        return entered

    @cached_property
    def login(self) -> tuple[str, str]:
        """A login to PostgreSQL that Vault issues to it."""
        issued = self.vault.secrets.database.generate_credentials(self.role)["data"]
        return issued["username"], issued["password"]

    @cached_property
    def key(self) -> Mapping[str, str]:
        """Its key to object storage, with the bucket's name, as the platform keeps it for it in Vault."""
        kept = self.vault.secrets.kv.v2.read_secret_version(
            f"{self.id}/object-storage", mount_point="tenants", raise_on_deleted_version=True
        )
        return dict(kept["data"]["data"])

    def leave(self) -> None:
        """Give token and login back; nothing happens if there are none."""
        if "vault" in self.__dict__:
            with suppress(VaultError):
                self.vault.auth.token.revoke_self()


def operator() -> hvac.Client:
    """Vault with the operator's token."""
    return hvac.Client(url=vault.url(), token=vault.root_token())


def known(summaries: Sequence[Mapping[str, Any]]) -> list[Tenant]:
    """The tenants that the last update declared.

    Raises:
        LocalError: there are fewer than two, so nobody can be attacked by anybody.
    """
    if len(summaries) < 2:
        raise LocalError(
            f"attack: the platform has {len(summaries)} tenants and an attack takes two, so nothing was "
            "tried; run `make up` with a roster of two or more."
        )
    return [Tenant(summary) for summary in summaries]
