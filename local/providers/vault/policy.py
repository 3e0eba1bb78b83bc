"""Policies: what a token may do."""

from local.providers.bridged import Property, table
from local.providers.provider import Call, ProviderError
from local.providers.values import Properties
from local.providers.vault.server import VaultResource


class Policy(VaultResource):
    """`vault:index/policy:Policy`; its id is its name."""

    properties = table(
        name=Property(replaces=True), policy=Property(), allowOverwrite=Property(computed=True)
    )

    def make(self, call: Call, inputs: Properties) -> str:  # noqa: D102
        name: str = inputs["name"]
        failing = f'error checking for existing policy "{name}"'
        if inputs.get("allowOverwrite") is False and self.vault.read(_path(name), failing):
            raise ProviderError(
                f'policy "{name}" already exists; import it to manage it, or set allowOverwrite to true'
            )
        self.change(call, name, {}, inputs)
        return name

    def find(self, id: str, known: Properties) -> Properties | None:  # noqa: D102
        del known
        data = self.vault.read(_path(id), "error reading from Vault") or {}
        # One that is gone reads as empty, and so is written again.
        return {"name": id, "policy": data.get("policy", "")}

    def change(self, call: Call, id: str, old: Properties, new: Properties) -> None:  # noqa: D102
        del call, old
        self.vault.write(_path(id), {"policy": new["policy"]}, "error writing to Vault")

    def drop(self, id: str, known: Properties) -> None:  # noqa: D102
        del known
        self.vault.delete(_path(id), "error deleting from Vault")


def _path(name: str) -> str:
    return f"sys/policies/acl/{name}"
