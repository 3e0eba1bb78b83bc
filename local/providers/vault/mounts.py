"""Mounts: where secret engines and login methods are."""

from typing import Any

from local.providers.bridged import Property, snake, table
from local.providers.provider import Call, Diff, ProviderError, State
from local.providers.values import Properties
from local.providers.vault.server import Vault, VaultResource, changed, short, told, written

_LISTS = (
    "auditNonHmacRequestKeys",
    "auditNonHmacResponseKeys",
    "allowedManagedKeys",
    "passthroughRequestHeaders",
    "allowedResponseHeaders",
    "delegatedAuthAccessors",
)
_TEXTS = ("listingVisibility", "pluginVersion")

_TUNED_TTLS = ("defaultLeaseTtl", "maxLeaseTtl")
_TUNED_TEXTS = ("listingVisibility", "tokenType")
_TUNED_LISTS = (
    "auditNonHmacRequestKeys",
    "auditNonHmacResponseKeys",
    "passthroughRequestHeaders",
    "allowedResponseHeaders",
)


class Mount(VaultResource):
    """`vault:index/mount:Mount`; its id is its path. Another path moves it, with all that is in it."""

    properties = table(
        path=Property(),
        type=Property(replaces=True),
        description=Property(),
        defaultLeaseTtlSeconds=Property(computed=True),
        maxLeaseTtlSeconds=Property(computed=True),
        forceNoCache=Property(computed=True),
        auditNonHmacRequestKeys=Property(computed=True),
        auditNonHmacResponseKeys=Property(computed=True),
        listingVisibility=Property(),
        passthroughRequestHeaders=Property(),
        allowedResponseHeaders=Property(),
        pluginVersion=Property(),
        allowedManagedKeys=Property(unordered=True),
        delegatedAuthAccessors=Property(),
        options=Property(),
        sealWrap=Property(computed=True, replaces=True),
        externalEntropyAccess=Property(default=False, replaces=True),
        local=Property(replaces=True),
        accessor=Property(computed=True),
    )

    def make(self, call: Call, inputs: Properties) -> str:  # noqa: D102
        del call
        path: str = inputs["path"]
        request = {
            "type": inputs["type"],
            "description": inputs.get("description", ""),
            "local": inputs.get("local", False),
            "seal_wrap": inputs.get("sealWrap", False),
            "external_entropy_access": inputs["externalEntropyAccess"],
            "options": inputs.get("options", {}),
            "config": {
                **_ttls(inputs),
                "force_no_cache": inputs.get("forceNoCache", False),
                **written(inputs, (*_LISTS, *_TEXTS)),
            },
        }
        self.vault.write(f"sys/mounts/{path}", request, "error writing to Vault")
        return path

    def find(self, id: str, known: Properties) -> Properties | None:  # noqa: D102
        path = known.get("path", id)
        data = self.vault.read(f"sys/mounts/{path}", f'error reading mount "{path}"')
        if data is None:
            return None
        config, options, kind = data["config"], data["options"] or {}, data["type"]
        if known.get("type") == "kv-v2" and kind == "kv" and options.get("version") == "2":
            kind = "kv-v2"
            if "version" not in known.get("options", {}):
                options.pop("version")
        return {
            **told(config, (*_LISTS, "listingVisibility", "forceNoCache")),
            **{name: config.get(snake(name)) or [] for name in _LISTS if self._is_computed(name)},
            **told(data, ("description", "local", "sealWrap", "externalEntropyAccess", "accessor")),
            "path": path,
            "type": kind,
            "options": options,
            "defaultLeaseTtlSeconds": config["default_lease_ttl"],
            "maxLeaseTtlSeconds": config["max_lease_ttl"],
        }

    def change(self, call: Call, id: str, old: Properties, new: Properties) -> None:  # noqa: D102
        del id
        if old["path"] != new["path"]:
            _move(self.vault, call, old["path"], new["path"])
        request = {
            **_ttls({**old, **new}),
            "options": new.get("options", {}),
            **changed(old, new, _LISTS, []),
            **changed(old, new, ("description", *_TEXTS), ""),
        }
        self.vault.write(f"sys/mounts/{new['path']}/tune", request, "error updating Vault")

    def drop(self, id: str, known: Properties) -> None:  # noqa: D102
        self.vault.delete(f"sys/mounts/{known.get('path', id)}", "error deleting from Vault")


class AuthBackend(VaultResource):
    """`vault:index/authBackend:AuthBackend`; its id is its path."""

    properties = table(
        type=Property(replaces=True),
        path=Property(computed=True, normal=lambda path: path.rstrip("/")),
        description=Property(),
        local=Property(replaces=True),
        disableRemount=Property(default=False),
        tune=Property(computed=True),
        accessor=Property(computed=True),
    )

    def diff(self, call: Call, id: str, old: State, new: Properties) -> Diff:  # noqa: D102
        diff = super().diff(call, id, old, new)
        if new.get("disableRemount"):
            diff.replaces |= {path for path in diff.changes if path == ("path",)}
        return diff

    def make(self, call: Call, inputs: Properties) -> str:  # noqa: D102
        del call
        path: str = inputs.get("path") or inputs["type"]
        request = {
            "type": inputs["type"],
            "description": inputs.get("description", ""),
            "local": inputs.get("local", False),
        }
        self.vault.write(f"sys/auth/{path}", request, "error writing to Vault")
        if inputs.get("tune"):
            self.vault.write(f"sys/auth/{path}/tune", _tuning(inputs["tune"]), "error writing to Vault")
        return path

    def find(self, id: str, known: Properties) -> Properties | None:  # noqa: D102
        path = known.get("path", id)
        data = self.vault.read(f"sys/auth/{path}", f'error reading auth mount "{path}"')
        if data is None:
            return None
        return {
            **told(data, ("type", "description", "local", "accessor")),
            "path": path,
            "disableRemount": known.get("disableRemount", False),
            "tune": self._tune(path, known.get("tune", {})),
        }

    def _tune(self, path: str, known: Properties) -> Properties:
        """What is tuned; where somebody tunes, only what they set, and durations as they wrote them."""
        data = self.vault.read(f"sys/auth/{path}/tune", "error reading tune information from Vault") or {}
        values = told(data, (*_TUNED_LISTS, *_TUNED_TEXTS))
        values |= {name: short(data.get(snake(name), 0)) for name in _TUNED_TTLS}
        if known:
            values = {name: value for name, value in values.items() if name in (*known, *_TUNED_LISTS)}
            values |= {name: known[name] for name in _TUNED_TTLS if name in known}
        return {name: value for name, value in values.items() if value and value != [""]}

    def change(self, call: Call, id: str, old: Properties, new: Properties) -> None:  # noqa: D102
        del id
        path = new.get("path", old["path"])
        if path != old["path"]:
            _move(self.vault, call, f"auth/{old['path']}", f"auth/{path}")
        request = changed(old, new, ("description",), "")
        if new.get("tune", old.get("tune")) != old.get("tune"):
            request |= _tuning(new["tune"])
        if request:
            self.vault.write(f"sys/auth/{path}/tune", request, "error writing to Vault")

    def drop(self, id: str, known: Properties) -> None:  # noqa: D102
        self.vault.delete(f"sys/auth/{known.get('path', id)}", "error disabling auth from Vault")


def _tuning(tune: Properties) -> Properties:
    texts = {snake(name): tune[name] for name in (*_TUNED_TTLS, *_TUNED_TEXTS) if tune.get(name)}
    return {**texts, **{snake(name): tune.get(name) or [""] for name in _TUNED_LISTS}}


def _ttls(inputs: Properties) -> dict[str, Any]:
    return {
        "default_lease_ttl": f"{inputs.get('defaultLeaseTtlSeconds', 0)}s",
        "max_lease_ttl": f"{inputs.get('maxLeaseTtlSeconds', 0)}s",
    }


def _move(vault: Vault, call: Call, old: str, new: str) -> None:
    failing = f'error remounting to "{new}"'
    migration = vault.write("sys/remount", {"from": old, "to": new}, failing)["migration_id"]
    while True:
        data = vault.read(f"sys/remount/status/{migration}", failing) or {}
        status = data.get("migration_info", {}).get("status")
        if status == "success":
            return
        if status != "in-progress" or call.cancelled.wait(0.2):
            raise ProviderError(f"{failing}: the move ended as {status or 'unknown'}")
