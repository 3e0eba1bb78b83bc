"""What Vault holds for a tenant besides what this program wrote: its own secrets, identities, live logins.

Declaring it does nothing; removing it ends the identities and the logins and deletes the secrets.
`HoldingsProvider` runs in Pulumi's host for dynamic resources; what is serialised of it is its name.
"""

from typing import TYPE_CHECKING, Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider, UpdateResult

from infra.tenants.clients import VaultClient
from infra.tenants.differences import differences

if TYPE_CHECKING:
    from infra.platform.vault import Vault
    from infra.tenants.roster import TenantEntry


class HoldingsProvider(ResourceProvider):
    """Empties a tenant's part of Vault when the tenant goes."""

    serialize_as_secret_always = False

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """The way into Vault may change; whose part it is may not."""
        return differences(olds, news, stable=("secrets", "logins"))

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Nothing to make: what is held comes later, and not from here."""
        return CreateResult(f"{props['mount']}/{props['secrets']}", props)

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Take note of the new way in."""
        return UpdateResult(news)

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """End all tokens and logins, then delete every version of every secret; look whether all is gone.

        Raises:
            RuntimeError: Vault did not do it; nothing depends on how far it came, so try again.
        """
        vault = VaultClient(props)
        end_logins(vault, props["namespace"], props["logins"])
        delete_secrets(vault, props["mount"], f"{props['secrets']}/")


def delete_secrets(vault: VaultClient, mount: str, folder: str) -> None:
    """Delete every version of every secret below `folder`, which ends in a slash; look whether all is gone.

    Raises:
        RuntimeError: it is not.
    """
    for path in vault.secrets(mount, folder):
        vault.call("DELETE", f"{mount}/metadata/{path}")
    left = vault.secrets(mount, folder)
    if left:
        raise RuntimeError(f"Vault still has {', '.join(left)}: somebody is writing there; try again")


def end_logins(vault: VaultClient, namespace: str, logins: str) -> None:
    """Make every token worthless that a machine or pod in `namespace` holds, and drop its database logins."""
    for entity in vault.entities(namespace):
        # A token whose identity is gone is refused.
        vault.call("DELETE", f"identity/entity/id/{entity}")
    # Waits until each login is dropped, which has to be before the role goes that they are members of.
    vault.call("PUT", f"sys/leases/revoke-prefix/{logins}", {"sync": True})


class Holdings(Resource, module="agent-platform", name="VaultHoldings"):
    """A tenant's secrets, identities and logins in Vault, which go when it goes."""

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
                "namespace": tenant.dashed,
                "logins": f"{vault.database_mount}/creds/{tenant.dashed}",
                "address": vault.provider.address,
                # Not from the provider: what it was not given is unknown in each preview, hence a change.
                "serverName": vault.server_name,
                "token": vault.token,
            },
            pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(additional_secret_outputs=["token"])),
        )


_PROVIDER = HoldingsProvider()
