"""Logins of Kubernetes service accounts."""

from typing import Any

from local.providers.bridged import Property, table
from local.providers.provider import Call
from local.providers.values import Properties
from local.providers.vault.server import VaultResource, bare, between, changed, network, told, written

_BACKEND = Property(default="kubernetes", replaces=True, normal=bare)
_CONFIG = (
    "kubernetesHost",
    "kubernetesCaCert",
    "tokenReviewerJwt",
    "issuer",
    "disableIssValidation",
    "disableLocalCaJwt",
    "useAnnotationsAsAliasMetadata",
)


class KubernetesConfig(VaultResource):
    """`vault:kubernetes/authBackendConfig:AuthBackendConfig`; it ends with its mount."""

    properties = table(
        kubernetesHost=Property(),
        kubernetesCaCert=Property(computed=True),
        tokenReviewerJwt=Property(default="", secret=True),
        pemKeys=Property(),
        backend=_BACKEND,
        issuer=Property(),
        disableIssValidation=Property(computed=True),
        disableLocalCaJwt=Property(computed=True),
        useAnnotationsAsAliasMetadata=Property(computed=True),
    )

    def make(self, call: Call, inputs: Properties) -> str:  # noqa: D102
        path = f"auth/{bare(inputs['backend'])}/config"
        self.change(call, path, {}, inputs)
        return path

    def find(self, id: str, known: Properties) -> Properties | None:  # noqa: D102
        data = self.vault.read(id, f'error reading Kubernetes auth backend config "{id}"')
        if data is None:
            return None
        return {
            **told(data, (*_CONFIG, "pemKeys")),
            "tokenReviewerJwt": known.get("tokenReviewerJwt"),
            "backend": between(id, "auth/", "/config"),
        }

    def change(self, call: Call, id: str, old: Properties, new: Properties) -> None:  # noqa: D102
        del call
        known = {
            **{name: old[name] for name in self.properties if name in old and self._is_computed(name)},
            **new,
        }
        data: dict[str, Any] = {
            "disable_iss_validation": False,
            "use_annotations_as_alias_metadata": False,
            **written(known, _CONFIG),
            "pem_keys": ",".join(new.get("pemKeys", ())),
        }
        self.vault.write(id, data, f'error writing Kubernetes auth backend config "{id}"')

    def drop(self, id: str, known: Properties) -> None:
        """Leave it: Vault has no request for that, and unmounting the login method takes it away."""


_ROLE_SETS = ("boundServiceAccountNames", "boundServiceAccountNamespaces", "tokenBoundCidrs", "tokenPolicies")
_ROLE_TEXTS = ("audience", "aliasNameSource", "tokenType")
_ROLE_NUMBERS = ("tokenExplicitMaxTtl", "tokenMaxTtl", "tokenPeriod", "tokenTtl", "tokenNumUses")
_ROLE = (*_ROLE_SETS, *_ROLE_TEXTS, *_ROLE_NUMBERS, "tokenNoDefaultPolicy")


class KubernetesRole(VaultResource):
    """`vault:kubernetes/authBackendRole:AuthBackendRole`; its id is its path."""

    properties = table(
        roleName=Property(replaces=True),
        backend=_BACKEND,
        **{name: Property(unordered=True) for name in _ROLE_SETS},
        **{name: Property() for name in (*_ROLE_NUMBERS, "tokenNoDefaultPolicy")},
        audience=Property(default=""),
        aliasNameSource=Property(computed=True),
        tokenType=Property(default="default"),
    )

    def make(self, call: Call, inputs: Properties) -> str:  # noqa: D102
        del call
        path = f"auth/{bare(inputs['backend'])}/role/{bare(inputs['roleName'])}"
        self._write(path, written(inputs, _ROLE))
        return path

    def find(self, id: str, known: Properties) -> Properties | None:  # noqa: D102
        data = self.vault.read(id, f'error reading Kubernetes auth backend role "{id}"')
        if data is None:
            return None
        cidrs = set(known.get("tokenBoundCidrs", ()))
        data["token_bound_cidrs"] = [network(address, cidrs) for address in data["token_bound_cidrs"] or ()]
        return {
            **told(data, _ROLE, sets=_ROLE_SETS),
            "backend": between(id, "auth/", "/role/"),
            "roleName": id.partition("/role/")[2],
        }

    def change(self, call: Call, id: str, old: Properties, new: Properties) -> None:  # noqa: D102
        del call
        known = {**self._computed(old), **new}
        data = {
            **changed(old, known, _ROLE_SETS, []),
            **changed(old, known, _ROLE_TEXTS, ""),
            **changed(old, known, _ROLE_NUMBERS, 0),
            **changed(old, known, ("tokenNoDefaultPolicy",), False),
        }
        self._write(id, data)

    def _write(self, path: str, data: Properties) -> None:
        self.vault.write(path, data, f'error writing Kubernetes auth backend role "{path}"')

    def drop(self, id: str, known: Properties) -> None:  # noqa: D102
        del known
        self.vault.delete(id, f'error deleting Kubernetes auth backend role "{id}"')
