"""Secrets in a KV v2 mount."""

import json
from typing import Any

from local.providers.bridged import Property, table
from local.providers.provider import Call, Failure, ProviderError
from local.providers.values import Properties, Unknown
from local.providers.vault.server import VaultResource, seconds


def _canonical(text: str) -> str:
    """The JSON on one line with its keys in order, as Go writes it; what is no JSON stays as it is."""
    try:
        written = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    except ValueError:
        return text
    for character in "<>&\u2028\u2029":
        written = written.replace(character, f"\\u{ord(character):04x}")
    return written


class KvSecret(VaultResource):
    """`vault:kv/secretV2:SecretV2`; its id is its path. What is in it is never read back."""

    properties = table(
        mount=Property(replaces=True),
        name=Property(replaces=True),
        path=Property(computed=True),
        cas=Property(),
        options=Property(),
        disableRead=Property(default=False),
        dataJson=Property(secret=True, normal=_canonical),
        data=Property(computed=True, secret=True),
        metadata=Property(computed=True),
        deleteAllVersions=Property(default=False),
        customMetadata=Property(computed=True),
    )

    def check(self, call: Call, old: Properties, new: Properties) -> tuple[Properties, list[Failure]]:  # noqa: D102
        inputs, failures = super().check(call, old, new)
        text = new.get("dataJson")
        if text is not None and not isinstance(text, Unknown):
            try:
                fine = isinstance(json.loads(str(text)), dict)
            except ValueError:
                fine = False
            if not fine:
                reason = "the secret's data is no JSON object (it is not shown here)"
                failures.append(Failure("", f"{reason}. Examine values at '{call.name}.dataJson'."))
        return inputs, failures

    def make(self, call: Call, inputs: Properties) -> str:  # noqa: D102
        path = f"{inputs['mount']}/data/{inputs['name']}"
        self.change(call, path, {}, inputs)
        return path

    def find(self, id: str, known: Properties) -> Properties | None:  # noqa: D102
        mount, separator, name = id.partition("/data/")
        if not separator:
            raise ProviderError(f"unable to read mount from ID {id}, err=no mount found")
        found: Properties = {
            "path": id,
            "mount": mount,
            "name": name,
            "disableRead": known.get("disableRead"),
            "deleteAllVersions": known.get("deleteAllVersions"),
        }
        if known.get("disableRead"):
            return found
        secret = self.vault.read(id, "error reading from Vault")
        if secret is None:
            return None
        found |= {"data": {}, "metadata": {key: _text(value) for key, value in secret["metadata"].items()}}
        if "custom_metadata" in secret["metadata"]:
            found["customMetadata"] = self._custom_metadata(mount, name)
        return found

    def _custom_metadata(self, mount: str, name: str) -> Properties:
        data = self.vault.read(f"{mount}/metadata/{name}", "error reading from Vault") or {}
        return {
            "maxVersions": data.get("max_versions"),
            "casRequired": data.get("cas_required"),
            "deleteVersionAfter": seconds(data.get("delete_version_after", "0s")),
            "data": data.get("custom_metadata") or {},
        }

    def change(self, call: Call, id: str, old: Properties, new: Properties) -> None:  # noqa: D102
        del old
        data = {
            "data": json.loads(new.get("dataJson", "{}")),
            "cas": new.get("cas", 0),
            "options": new.get("options", {}),
        }
        self.vault.write_when_ready(call, id, data, f'error writing to path "{id}"')
        custom = new.get("customMetadata")
        if custom:
            path = f"{new['mount']}/metadata/{new['name']}"
            names = {
                "max_versions": "maxVersions",
                "cas_required": "casRequired",
                "delete_version_after": "deleteVersionAfter",
                "custom_metadata": "data",
            }
            request = {key: custom[name] for key, name in names.items() if custom.get(name)}
            self.vault.write(path, request, f"error writing custom metadata to {path}")

    def drop(self, id: str, known: Properties) -> None:  # noqa: D102
        del id
        base = "metadata" if known.get("deleteAllVersions") else "data"
        path = f"{known['mount']}/{base}/{known['name']}"
        self.vault.delete(path, f'error deleting "{path}" from Vault')


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


class KvConfig(VaultResource):
    """`vault:kv/secretBackendV2:SecretBackendV2`: a KV v2 mount's own settings."""

    properties = table(
        mount=Property(replaces=True),
        maxVersions=Property(computed=True),
        casRequired=Property(computed=True),
        deleteVersionAfter=Property(),
    )

    def make(self, call: Call, inputs: Properties) -> str:  # noqa: D102
        path = f"{inputs['mount']}/config"
        self.change(call, path, {}, inputs)
        return path

    def find(self, id: str, known: Properties) -> Properties | None:  # noqa: D102
        data = self.vault.read(id, "error reading config from Vault")
        if data is None:
            return None
        return {
            "mount": known.get("mount", id.removesuffix("/config")),
            "maxVersions": data["max_versions"],
            "casRequired": data["cas_required"],
            "deleteVersionAfter": seconds(data.get("delete_version_after", "0s")),
        }

    def change(self, call: Call, id: str, old: Properties, new: Properties) -> None:  # noqa: D102
        known = {**self._computed(old), **new}
        data = {
            "max_versions": known.get("maxVersions", 0),
            "cas_required": known.get("casRequired", False),
            "delete_version_after": f"{new.get('deleteVersionAfter', 0)}s",
        }
        self.vault.write_when_ready(call, id, data, f"error writing config data to {id}")

    def drop(self, id: str, known: Properties) -> None:
        """Leave it: it ends with its mount."""
