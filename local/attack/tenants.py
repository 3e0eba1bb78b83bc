"""The tenants as attackers: every credential that the platform gives each of them, obtained as it does."""

import base64
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import hvac  # type: ignore[import-untyped]
import jwt
from hvac.exceptions import RateLimitExceeded, VaultError  # type: ignore[import-untyped]

from local.errors import LocalError
from local.servers import kubernetes_api, vault


class Account(NamedTuple):
    """A service account of the cluster."""

    namespace: str
    name: str


SHARED = Account("runtime", "agent-runtime")
"""Whom the agents of those run as who have no namespace of their own; Vault lets it in nowhere."""
AUDIENCE = "vault"
"""Whom tokens for Vault are meant for."""
_SIGNING_KEY = "/api/v1/namespaces/gateway/secrets/gateway-assertions"
_HOUR = 3600
_LIMITED = 90
"""Seconds in which Vault's limits on the rate of requests, which count by the minute, allow one more."""

Answer = TypeVar("Answer")


class Tenant:
    """One tenant: its names, and its credentials, each asked for once."""

    def __init__(self, summary: Mapping[str, Any]) -> None:
        """Take what the program exports of the tenant."""
        self.id = str(summary["id"])
        self.schema = str(summary["schema"])
        self.prefix = str(summary["prefix"])
        self.namespace = str(summary["namespace"])
        """Empty if it has none of its own."""
        self.machine = str(summary["vm"])
        """Likewise."""
        self.has_vpn = bool(summary.get("vpn"))
        self.role = f"tenant-{self.id}"
        """Its name in Vault."""

    @property
    def method(self) -> str:
        """Where Vault lets its agents in: by their account, or by the gateway's word for a request."""
        return "kubernetes" if self.namespace else "jwt"

    @cached_property
    def account(self) -> Account:
        """The account that its agents run under."""
        if not self.namespace:
            return SHARED
        bound = self._entry["bound_service_account_namespaces"]
        # Were there more than one, this is the one that it is meant for.
        namespace = self.namespace if self.namespace in bound else bound[0]
        return Account(namespace, self._entry["bound_service_account_names"][0])

    @cached_property
    def database(self) -> str:
        """The PostgreSQL database that its logins are for: the shared one, or one of its own."""
        made = operator().read(f"database/roles/{self.role}")["data"]
        entered = operator().read(f"database/config/{made['db_name']}")["data"]["connection_details"]
        url = str(entered["connection_url"]).replace("{{", "").replace("}}", "")
        return urlsplit(url).path.strip("/")

    @cached_property
    def account_token(self) -> str:
        """That account's token, as it is mounted into a machine or pod; into the shared runtime's none is."""
        audience = self._entry.get("audience") if self.namespace else AUDIENCE
        return issue(self.account, [audience] if audience else [])

    @property
    def credential(self) -> str:
        """What its agents enter Vault with: that token, or the gateway's word for a request."""
        return self.account_token if self.namespace else self._word

    @cached_property
    def _word(self) -> str:
        return word_for(self.id)

    @cached_property
    def vault(self) -> hvac.Client:
        """Vault, entered with that."""
        entered = hvac.Client(url=vault.url())
        answer = entered.write(f"auth/{self.method}/login", role=self.role, jwt=self.credential)
        entered.token = answer["auth"]["client_token"]
        return entered

    @cached_property
    def login(self) -> tuple[str, str]:
        """A login to PostgreSQL that Vault issues to it."""
        issued = once_allowed(lambda: self.vault.secrets.database.generate_credentials(self.role))["data"]
        return issued["username"], issued["password"]

    @cached_property
    def key(self) -> Mapping[str, str]:
        """Its key to object storage, with the bucket's name, as the platform keeps it for it in Vault."""
        return self._kept("object-storage")

    @cached_property
    def signing_key(self) -> Mapping[str, str]:
        """What it signs its tokens for the gateway with, as the platform keeps it for it in Vault."""
        return self._kept("gateway")

    def leave(self) -> None:
        """Give the token back, and with it the login; nothing happens if there is none."""
        if "vault" in self.__dict__:
            with suppress(VaultError):
                self.vault.auth.token.revoke_self()

    def _kept(self, name: str) -> Mapping[str, str]:
        kept = self.vault.secrets.kv.v2.read_secret_version(
            f"{self.id}/{name}", mount_point="tenants", raise_on_deleted_version=True
        )
        return dict(kept["data"]["data"])

    @cached_property
    def _entry(self) -> Mapping[str, Any]:
        """Who may log in for it, as Vault has it."""
        entry: Mapping[str, Any] = operator().read(f"auth/{self.method}/role/{self.role}")["data"]
        return entry


def once_allowed(ask: Callable[[], Answer]) -> Answer:
    """Ask Vault, and again each second while there were too many requests of the kind.

    Raises:
        RateLimitExceeded: there still are after a minute and a half.
    """
    deadline = time.monotonic() + _LIMITED
    while True:
        try:
            return ask()
        except RateLimitExceeded:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def issue(account: Account, audiences: list[str]) -> str:
    """A token of a service account; without audiences, for the Kubernetes API."""
    issued = kubernetes_api.create(
        f"/api/v1/namespaces/{account.namespace}/serviceaccounts/{account.name}/token",
        {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": audiences},
        },
    )
    return str(issued["status"]["token"])


def word_for(tenant: str) -> str:
    """What the gateway says to Vault for a request of a tenant's, signed with its key as the operator may.

    It lasts longer than the gateway's own, so that an attack of some length has it till the end.
    """
    held, now = kubernetes_api.get(_SIGNING_KEY)["data"]["key.pem"], int(time.time())
    said = {"iss": "gateway", "aud": AUDIENCE, "sub": "attacker", "tenant": tenant}
    return jwt.encode({**said, "iat": now, "exp": now + _HOUR}, base64.b64decode(held), "EdDSA")


def operator() -> hvac.Client:
    """Vault with the operator's token."""
    return hvac.Client(url=vault.url(), token=vault.root_token())


def active(summaries: Iterable[Mapping[str, Any]]) -> list[Tenant]:
    """Of the tenants that the last update declared, those that are active: nobody logs in for another.

    Raises:
        LocalError: there are fewer than two, so nobody can be attacked by anybody.
    """
    tenants = [Tenant(summary) for summary in summaries if summary["state"] == "active"]
    if len(tenants) < 2:
        raise LocalError(
            f"attack: the platform has {len(tenants)} active tenants and an attack takes two, so nothing "
            "was tried; run `make up` with a roster of two or more."
        )
    return tenants
