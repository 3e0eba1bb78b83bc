"""What Vault holds for a tenant besides what this program wrote: its own secrets, and logins still alive.

Declaring it does nothing; removing it revokes the logins and deletes the secrets. `HoldingsProvider` runs in
Pulumi's host for dynamic resources; what is serialised of it is its name.
"""

import json
import os
from typing import TYPE_CHECKING, Any

import pulumi
import urllib3
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider, UpdateResult

if TYPE_CHECKING:
    from infra.platform.vault import Vault
    from infra.tenants.roster import TenantEntry


class HoldingsProvider(ResourceProvider):
    """Empties a tenant's part of Vault when the tenant goes."""

    serialize_as_secret_always = False

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """The way into Vault may change; whose part it is may not."""
        changed = any(olds.get(key) != value for key, value in news.items() if not key.startswith("__"))
        replaces = [key for key in ("secrets", "logins") if olds.get(key) != news.get(key)]
        return DiffResult(changes=changed, replaces=replaces, stables=["secrets", "logins"])

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Nothing to make: what is held comes later, and not from here."""
        return CreateResult(f"{props['mount']}/{props['secrets']}", props)

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Take note of the new way in."""
        return UpdateResult(news)

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Revoke all logins, then delete every version of every secret, and look whether all is gone.

        Raises:
            RuntimeError: Vault did not do it; nothing depends on how far it came, so try again.
        """
        vault = _Client(props)
        # Waits until each login is dropped, which has to be before the role goes that they are members of.
        vault.call("PUT", f"sys/leases/revoke-prefix/{props['logins']}", {"sync": True})
        for path in vault.secrets(props["mount"], f"{props['secrets']}/"):
            vault.call("DELETE", f"{props['mount']}/metadata/{path}")
        left = vault.secrets(props["mount"], f"{props['secrets']}/")
        if left:
            raise RuntimeError(f"Vault still has {', '.join(left)}: somebody is writing there; try again")


class Holdings(Resource, module="agent-platform", name="VaultHoldings"):
    """A tenant's secrets and logins in Vault, which go when it goes."""

    secrets: pulumi.Output[str]
    """The folder below the KV mount."""

    def __init__(
        self,
        resource_name: str,
        *,
        tenant: "TenantEntry",
        vault: "Vault",
        opts: pulumi.ResourceOptions,
    ) -> None:
        """Declare that what `vault` holds for `tenant` ends with it."""
        super().__init__(
            _PROVIDER,
            resource_name,
            {
                "mount": vault.kv_mount,
                "secrets": tenant.id,
                "logins": vault.database_mount.apply(lambda mount: f"{mount}/creds/{tenant.dashed}"),
                "address": vault.provider.address,
                # Not from the provider: what it was not given is unknown in each preview, hence a change.
                "serverName": vault.server_name,
                "token": vault.token,
            },
            pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(additional_secret_outputs=["token"])),
        )


_PROVIDER = HoldingsProvider()


class _Client:
    """Vault's HTTP API, entered as the provider enters it: with its token, or with the environment's."""

    def __init__(self, props: dict[str, Any]) -> None:
        token = props.get("token") or os.environ.get("VAULT_TOKEN")
        if not token:
            raise RuntimeError(
                "VAULT_TOKEN: not set, so Vault cannot be entered; export the operator's token"
            )
        name = props.get("serverName") or None
        self._address = str(props["address"]).rstrip("/")
        self._headers = {"X-Vault-Token": token, "X-Vault-Request": "true"}
        self._http = urllib3.PoolManager(
            ca_certs=os.environ.get("VAULT_CACERT"),
            **({"server_hostname": name, "assert_hostname": name} if name else {}),
            timeout=urllib3.Timeout(connect=10, read=120),
            retries=urllib3.Retry(3, allowed_methods=None, backoff_factor=0.5),
        )

    def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """The answer, empty if there is none or nothing there."""
        url = f"{self._address}/v1/{path}"
        content = None if body is None else json.dumps(body)
        try:
            answer = self._http.request(method, url, body=content, headers=self._headers)
        except urllib3.exceptions.HTTPError as error:
            raise RuntimeError(f"Vault cannot be reached under {self._address}: {error}") from None
        if answer.status == 404:
            return {}
        if answer.status >= 400:
            raise RuntimeError(f"Vault refused {method} {path} ({answer.status}): {answer.data.decode()}")
        return dict(json.loads(answer.data)) if answer.data else {}

    def secrets(self, mount: str, folder: str) -> list[str]:
        """The path of every secret below `folder`, which ends in a slash; deleted versions count."""
        keys = self.call("LIST", f"{mount}/metadata/{folder}").get("data", {}).get("keys", [])
        return [
            path
            for key in keys
            for path in (self.secrets(mount, folder + key) if key.endswith("/") else [folder + key])
        ]
