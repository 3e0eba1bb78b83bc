"""A tenant's secrets, brought back from their older versions in Vault.

Nothing is overwritten: what was current at the time becomes the newest version of its secret, and a secret
that was not there is deleted, which keeps its versions. So a restore is undone by another one, to the moment
before it. What the program itself wrote for the tenant stays as it is.

Contents are held in memory, and shown nowhere.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from infra.platform.vault import KV
from infra.tenants.clients import VaultClient
from infra.tenants.secrets import OURS
from restore.errors import RestoreError
from restore.source import Change, Plan

_KEPT = 10
"""The versions that Vault keeps where nothing else was set."""

Contents = Mapping[str, Any] | None
"""The contents of a version; None: nothing."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version of a secret."""

    number: int
    made: datetime
    deleted: datetime | None
    destroyed: bool

    def is_there(self, at: datetime) -> bool:
        """Return whether it could be read at a time."""
        return not self.destroyed and (self.deleted is None or self.deleted > at)

    def told(self, at: datetime) -> str:
        """Return it as a plan shows it."""
        return f"version {self.number} of {self.made:%Y-%m-%d %H:%M:%S}" if self.is_there(at) else "nothing"


@dataclass(frozen=True, kw_only=True)
class Secret:
    """A secret, and what is known of its versions."""

    path: str
    """Below the mount."""
    made: datetime
    kept: int
    """The number of versions that it may have."""
    versions: Sequence[Version]
    """Those that Vault still keeps, the oldest first."""

    @property
    def current(self) -> Version:
        """Return the newest version."""
        return self.versions[-1]

    def at(self, moment: datetime) -> Version | None:
        """Return what was current at a time; None: nothing, or nothing that is still kept."""
        return next((one for one in reversed(self.versions) if one.made <= moment), None)


class Secrets:
    """The secrets that a tenant wrote below its own path."""

    def __init__(self, tenant: str, at: datetime) -> None:
        """Bring it back as of a time; Vault's own variables say where it is, and let us in.

        Raises RestoreError.
        """
        self._folder = f"{tenant}/"
        self._at = at
        self._read: dict[str, Contents] = {}
        """By path, the contents that come back."""
        if not os.environ.get("VAULT_ADDR"):
            raise RestoreError("VAULT_ADDR: not set, so Vault cannot be entered and nothing was changed.")
        try:
            self._vault = VaultClient(
                {
                    "address": os.environ["VAULT_ADDR"],
                    "serverName": os.environ.get("VAULT_TLS_SERVER_NAME"),
                }
            )
        except RuntimeError as error:
            raise RestoreError(f"{error}; nothing was changed.") from None

    def plan(self) -> Plan:
        """Compare what is there with what was there."""
        if self._call("GET", "sys/seal-status").get("sealed"):
            raise RestoreError(
                f"Vault at {os.environ['VAULT_ADDR']} is sealed, so nothing was changed; have it unsealed "
                "(`bao operator unseal`) and run the same command again."
            )
        secrets = self._secrets()
        if not secrets:
            raise RestoreError(
                f"{KV}/{self._folder} holds no secret that the tenant wrote, not even a deleted one, so "
                "there is nothing to bring back."
            )
        oldest = min(secret.made for secret in secrets)
        if self._at < oldest:
            raise RestoreError(
                f"{KV}/{self._folder} has no version from before {oldest:%Y-%m-%dT%H:%M:%SZ}, so nothing is "
                f"known of {self._at:%Y-%m-%dT%H:%M:%SZ} and nothing was changed; choose a later time."
            )
        moment = datetime.now(UTC)
        changes, same, lost = [], 0, []
        for secret in secrets:
            now, then = secret.current, secret.at(self._at)
            if reason := self._lost(secret, then):
                lost.append(f"{self._name(secret)}: {reason}")
            elif self._is_same(secret, then, moment):
                same += now.is_there(moment)
            else:
                told = then.told(self._at) if then else "nothing"
                changes.append(Change(what=self._name(secret), now=now.told(moment), then=told))
        return Plan(
            changes=changes,
            same=same,
            lost=lost,
            way_back="What is there now stays as older versions.",
        )

    def prepare(self, plan: Plan) -> str:
        """Read all that comes back, before anything is changed."""
        wanted = {change.what for change in plan.changes}
        for secret in self._secrets():
            if self._name(secret) not in wanted:
                continue
            if secret.kept == 1:
                raise RestoreError(
                    f"{KV}/{secret.path} keeps one version (max_versions), so what is replaced would be "
                    "lost, and nothing was changed; have it keep more."
                )
            then = secret.at(self._at)
            self._read[secret.path] = self._contents(secret, then) if then else None
        last = max(
            moment
            for secret in self._secrets()
            for version in secret.versions
            for moment in (version.made, version.deleted)
            if moment and moment <= datetime.now(UTC)
        )
        # Exact: what is written next is later by less than a second.
        return f"To have back what is there now, restore to {last.isoformat().replace('+00:00', 'Z')}."

    def apply(self, plan: Plan) -> None:
        """Write the old contents as a new version; delete what was not there."""
        del plan
        try:
            for secret in self._secrets():
                if secret.path not in self._read:
                    continue
                contents = self._read[secret.path]
                newest = secret.current.number
                if contents is None:
                    self._vault.call("POST", f"{KV}/delete/{secret.path}", {"versions": [newest]})
                else:
                    # Whoever writes at the same time is not overtaken.
                    body = {"data": contents, "options": {"cas": newest}}
                    self._vault.call("POST", f"{KV}/data/{secret.path}", body)
        except RuntimeError as error:
            raise RestoreError(
                f"{KV}/{self._folder} is brought back in part: {_line(error)}. Run the same command again."
            ) from None

    def differences(self) -> list[str]:
        """Read what was brought back, and whatever does not show that it is the same."""
        found, moment = [], datetime.now(UTC)
        for secret in self._secrets():
            then = secret.at(self._at)
            if reason := self._lost(secret, then):
                found.append(f"{self._name(secret)}: {reason}")
            elif not self._is_same(secret, then, moment):
                told = then.told(self._at) if then else "nothing"
                found.append(f"{self._name(secret)}: {secret.current.told(moment)} instead of {told}")
        return found

    def _name(self, secret: Secret) -> str:
        return secret.path.removeprefix(self._folder)

    def _lost(self, secret: Secret, then: Version | None) -> str:
        """Return why a secret cannot come back; empty if it can."""
        if then and then.destroyed:
            return f"version {then.number}, which was current then, is destroyed, so it stays as it is now"
        if not then and secret.made <= self._at:
            first = secret.versions[0]
            return (
                f"Vault keeps {secret.kept} versions of it (max_versions), the oldest is {first.number} of "
                f"{first.made:%Y-%m-%d %H:%M:%S}, so it stays as it is now"
            )
        return ""

    def _is_same(self, secret: Secret, then: Version | None, moment: datetime) -> bool:
        """Return whether both have the same contents; what was deleted since is only read to be restored."""
        now = secret.current
        if not (then and then.is_there(self._at)):
            return not now.is_there(moment)
        if not now.is_there(moment):
            return False
        if secret.path in self._read:
            return self._version(secret, now) == self._read[secret.path]
        return now.number == then.number or (
            then.is_there(moment) and self._version(secret, now) == self._version(secret, then)
        )

    def _contents(self, secret: Secret, then: Version) -> Contents:
        """Return what a version held at the time; None: it was deleted by then."""
        if not then.is_there(self._at):
            return None
        if then.is_there(datetime.now(UTC)):
            found = self._version(secret, then)
        else:
            # A deleted version is not read: it is there for a moment, and deleted again.
            versions = {"versions": [then.number]}
            self._call("POST", f"{KV}/undelete/{secret.path}", versions)
            try:
                found = self._version(secret, then)
            finally:
                self._call("POST", f"{KV}/delete/{secret.path}", versions)
        if found is None:
            raise RestoreError(
                f"{KV}/{secret.path}: version {then.number} cannot be read, so nothing was changed."
            )
        return found

    def _version(self, secret: Secret, version: Version) -> Contents:
        answer = self._call("GET", f"{KV}/data/{secret.path}", query=f"?version={version.number}")
        found: Contents = answer.get("data", {}).get("data")
        return found

    def _secrets(self) -> Sequence[Secret]:
        try:
            paths = self._vault.secrets(KV, self._folder)
        except RuntimeError as error:
            raise RestoreError(f"{_line(error)}; nothing was changed.") from None
        ours = {f"{self._folder}{name}" for name in OURS}
        usual = self._call("GET", f"{KV}/config").get("data", {}).get("max_versions")
        found = (self._secret(path, usual or 0) for path in paths if path not in ours)
        return [secret for secret in found if secret.versions]

    def _secret(self, path: str, usual: int) -> Secret:
        known = self._call("GET", f"{KV}/metadata/{path}").get("data") or {}
        versions = [
            Version(
                number=int(number),
                made=_moment(one["created_time"]),
                deleted=_moment(one["deletion_time"]) if one.get("deletion_time") else None,
                destroyed=bool(one.get("destroyed")),
            )
            for number, one in (known.get("versions") or {}).items()
        ]
        return Secret(
            path=path,
            made=_moment(known["created_time"]) if versions else self._at,
            kept=max(known.get("max_versions") or 0, usual) or _KEPT,
            versions=sorted(versions, key=lambda one: one.number),
        )

    def _call(self, method: str, path: str, body: Any = None, query: str = "") -> dict[str, Any]:
        try:
            return self._vault.call(method, path, body, query)
        except RuntimeError as error:
            raise RestoreError(f"{_line(error)}; nothing was changed.") from None


def _moment(text: str) -> datetime:
    # Vault tells nanoseconds; what is cut off is never enough for a version to count as later than it is.
    return datetime.fromisoformat(text).astimezone(UTC)


def _line(error: RuntimeError) -> str:
    return " ".join(str(error).split())
