"""SKS clusters, node pools and kubeconfigs."""

import base64
import datetime
from collections.abc import Mapping
from typing import Any, ClassVar

import yaml
from cryptography import x509

from local.providers.exoscale.api import Api, Json
from local.providers.exoscale.kind import Check, Kind, present
from local.providers.provider import Call, Diff, Failure, ProviderError, State
from local.providers.values import Properties, Secret

_CCM, _CSI, _METRICS = "exoscale-cloud-controller", "exoscale-container-storage-interface", "metrics-server"
_ADDONS = {"exoscaleCcm": _CCM, "metricsServer": _METRICS, "exoscaleCsi": _CSI}
_AUTHORITIES = {"aggregationCa": "aggregation", "controlPlaneCa": "control-plane", "kubeletCa": "kubelet"}
_LVM = "storage-lvm"


class SksCluster(Kind):
    """The control plane."""

    of_type = "exoscale:index/sksCluster:SksCluster"
    zoned = True
    replace_on = frozenset({"zone", "enableKubeProxy"})
    sets = frozenset({"addons", "featureGates", "nodepools"})
    computed = frozenset(
        {
            *("addons", "aggregationCa", "controlPlaneCa", "createdAt", "enableKubeProxy", "endpoint"),
            *("kubeletCa", "nodepools", "oidc", "state", "version"),
        }
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "cni": "calico",
        "exoscaleCcm": True,
        "exoscaleCsi": False,
        "metricsServer": True,
        "serviceLevel": "pro",
    }

    def check(self, call: Call, old: Properties, new: Properties) -> tuple[Properties, list[Failure]]:  # noqa: D102
        if isinstance(audit := new.get("audit"), dict):
            new = {**new, "audit": {"initialBackoff": "10s", **audit}}
        return super().check(call, old, new)

    def make(self, api: Api, inputs: Properties) -> str:  # noqa: D102
        wanted = set(inputs.get("addons", [])) | {
            addon for name, addon in _ADDONS.items() if inputs.get(name)
        }
        fields = present(
            name=inputs["name"],
            level=inputs["serviceLevel"],
            version=inputs.get("version") or _latest(api),
            cni=inputs["cni"],
            description=inputs.get("description"),
            labels=inputs.get("labels"),
            feature_gates=inputs.get("featureGates"),
            addons=sorted(wanted),
            auto_upgrade=inputs.get("autoUpgrade") or None,
            oidc=_oidc(inputs.get("oidc")),
        )
        if "enableKubeProxy" in inputs:
            fields["enable_kube_proxy"] = inputs["enableKubeProxy"]
        audit = inputs.get("audit", {})
        if audit.get("enabled") and audit.get("endpoint"):
            fields["audit"] = _audit(audit)
        return api.change("create_sks_cluster", **fields)

    def find(self, api: Api, id: str, known: Properties) -> Json | None:  # noqa: ARG002, D102
        return api.find("get_sks_cluster", id=id)

    def show(self, api: Api, found: Json, known: Properties) -> Properties:  # noqa: D102
        addons = found.get("addons", [])
        authorities = {
            name: base64.b64decode(
                api.call("get_sks_cluster_authority_cert", id=found["id"], authority=authority)["cacert"]
            ).decode()
            for name, authority in _AUTHORITIES.items()
        }
        return {
            "name": found["name"],
            "zone": known["zone"],
            "description": found.get("description", ""),
            "version": found["version"],
            "cni": found.get("cni", ""),
            "serviceLevel": found["level"],
            "autoUpgrade": found.get("auto-upgrade", False),
            "enableKubeProxy": found.get("enable-kube-proxy", True),
            "featureGates": found.get("feature-gates", []),
            "labels": found.get("labels", {}),
            "addons": addons,
            **{name: addon in addons for name, addon in _ADDONS.items()},
            **authorities,
            "createdAt": _time(found["created-at"]),
            "endpoint": found["endpoint"],
            "state": found["state"],
            "nodepools": [pool["id"] for pool in found.get("nodepools", [])],
            # Kept as given, as by the official plugin: the API does not tell the token.
            **{name: _concealed(known[name]) for name in ("audit", "oidc") if name in known},
        }

    def change(self, api: Api, id: str, old: Properties, new: Properties) -> None:  # noqa: D102
        if _changed(old, new, "version") and new.get("version"):
            api.change("upgrade_sks_cluster", id=id, version=new["version"])
        fields: Json = {}
        for name, field, empty in (
            ("featureGates", "feature_gates", []),
            ("autoUpgrade", "auto_upgrade", False),
            ("labels", "labels", {}),
            ("name", "name", None),
            ("description", "description", ""),
        ):
            if _changed(old, new, name):
                fields[field] = new.get(name, empty)
        if _changed(old, new, "exoscaleCsi"):
            if not new["exoscaleCsi"]:
                raise ProviderError("disabling the CSI addon is not supported")
            fields["addons"] = sorted({*api.call("get_sks_cluster", id=id).get("addons", []), _CSI})
        if _changed(old, new, "audit"):
            fields["audit"] = _audit_update(new.get("audit", {}))
        if fields:
            api.change("update_sks_cluster", id=id, **fields)

    def remove(self, api: Api, id: str, known: Properties) -> None:  # noqa: ARG002, D102
        api.remove("delete_sks_cluster", id=id)


class SksNodepool(Kind):
    """Nodes of one type."""

    of_type = "exoscale:index/sksNodepool:SksNodepool"
    zoned = True
    replace_on = frozenset({"clusterId", "zone"})
    sets = frozenset({"antiAffinityGroupIds", "privateNetworkIds", "securityGroupIds"})
    computed = frozenset({"createdAt", "instancePoolId", "state", "templateId", "version"})
    any_case = frozenset({"instanceType"})
    defaults: ClassVar[Mapping[str, Any]] = {
        "diskSize": 50,
        "instancePrefix": "pool",
        "ipv6": False,
        "storageLvm": False,
    }
    checks: ClassVar[Mapping[str, Check]] = {
        "instanceType": lambda _, value: (
            None if "." in value else f'invalid value "{value}", expected format "FAMILY.SIZE"'
        )
    }

    def make(self, api: Api, inputs: Properties) -> str:  # noqa: D102
        fields = present(**_pool_fields(api, inputs)) | {"size": inputs["size"]}
        if inputs.get("storageLvm"):
            fields["addons"] = [_LVM]
        return api.change("create_sks_nodepool", id=inputs["clusterId"], **fields)

    def find(self, api: Api, id: str, known: Properties) -> Json | None:  # noqa: D102
        return api.find("get_sks_nodepool", id=known["clusterId"], sks_nodepool_id=id)

    def show(self, api: Api, found: Json, known: Properties) -> Properties:  # noqa: D102
        kind = api.call("get_instance_type", id=found["instance-type"]["id"])
        garbage = {
            "minAge": found.get("kubelet-image-gc", {}).get("min-age"),
            "highThreshold": found.get("kubelet-image-gc", {}).get("high-threshold"),
            "lowThreshold": found.get("kubelet-image-gc", {}).get("low-threshold"),
        }
        outputs = {
            "name": found["name"],
            "zone": known["zone"],
            "clusterId": known["clusterId"],
            "description": found.get("description", ""),
            "diskSize": found["disk-size"],
            "instancePrefix": found.get("instance-prefix", "pool"),
            "instanceType": f"{kind['family']}.{kind['size']}",
            "size": found["size"],
            "ipv6": found.get("public-ip-assignment") == "dual",
            "storageLvm": _LVM in found.get("addons", []),
            "labels": found.get("labels", {}),
            "taints": {
                key: f"{taint['value']}:{taint['effect']}" for key, taint in found.get("taints", {}).items()
            },
            "antiAffinityGroupIds": _ids(found, "anti-affinity-groups"),
            "privateNetworkIds": _ids(found, "private-networks"),
            "securityGroupIds": _ids(found, "security-groups"),
            "createdAt": _time(found["created-at"]),
            "instancePoolId": found["instance-pool"]["id"],
            "state": found["state"],
            "templateId": found["template"]["id"],
            "version": found["version"],
        }
        if "deploy-target" in found:
            outputs["deployTargetId"] = found["deploy-target"]["id"]
        if "kubelet-image-gc" in found:
            outputs["kubeletImageGcs"] = [{name: value for name, value in garbage.items() if value}]
        return outputs

    def change(self, api: Api, id: str, old: Properties, new: Properties) -> None:  # noqa: D102
        before, after = _pool_fields(api, old), _pool_fields(api, new)
        changed = {field: value for field, value in after.items() if value != before[field]}
        where = {"id": new["clusterId"], "sks_nodepool_id": id}
        if changed:
            api.change("update_sks_nodepool", **where, **changed)
        if _changed(old, new, "size"):
            api.change("scale_sks_nodepool", **where, size=new["size"])

    def remove(self, api: Api, id: str, known: Properties) -> None:  # noqa: D102
        api.remove("delete_sks_nodepool", id=known["clusterId"], sks_nodepool_id=id)

    def imported(self, id: str) -> Properties:  # noqa: D102
        if "/" not in id or "@" not in id:
            raise ProviderError(f'invalid ID {id!r}, expected format "<CLUSTER-ID>/<NODEPOOL-ID>@<ZONE>"')
        return super().imported(id) | {"clusterId": id.partition("/")[0]}

    def own_id(self, id: str) -> str:  # noqa: D102
        return super().own_id(id).rpartition("/")[2]


class SksKubeconfig(Kind):
    """Credentials for the cluster; replaced once one of their certificates is about to end."""

    of_type = "exoscale:index/sksKubeconfig:SksKubeconfig"
    zoned = True
    replace_on = frozenset({"clusterId", "groups", "ttlSeconds", "user", "zone"})
    sets = frozenset({"groups"})
    defaults: ClassVar[Mapping[str, Any]] = {"earlyRenewalSeconds": 0, "ttlSeconds": 30 * 24 * 3600}
    computed = frozenset({"kubeconfig"})
    secret_outputs = frozenset({"kubeconfig"})

    def diff(self, call: Call, id: str, old: State, new: Properties) -> Diff:  # noqa: D102
        diff = super().diff(call, id, old, new)
        early = new.get("earlyRenewalSeconds", 0)
        if isinstance(early, int | float) and _ends_within(old.outputs.get("kubeconfig", ""), early):
            diff.changes[("readyForRenewal",)] = "update"
            diff.replaces.add(("readyForRenewal",))
        return diff

    def create(self, call: Call, inputs: Properties) -> tuple[str, Properties]:  # noqa: D102
        if call.preview:
            return "", self.foretold(inputs) | {"readyForRenewal": True}
        answer = self._api(call, inputs).call(
            "generate_sks_cluster_kubeconfig",
            id=inputs["clusterId"],
            user=inputs["user"],
            groups=inputs["groups"],
            ttl=int(inputs["ttlSeconds"]),
        )
        kubeconfig = base64.b64decode(answer["kubeconfig"]).decode()
        # Serial numbers of the certificates, as the official plugin names it: the API keeps no kubeconfig.
        id = ":".join(str(certificate.serial_number) for certificate in _certificates(kubeconfig))
        return id, self._outputs(id, inputs, kubeconfig)

    def read(self, call: Call, id: str, state: State) -> State | None:  # noqa: ARG002, D102
        return state

    def update(self, call: Call, id: str, old: State, inputs: Properties) -> Properties:  # noqa: ARG002, D102
        return self._outputs(id, inputs, old.outputs["kubeconfig"])

    def delete(self, call: Call, id: str, state: State) -> None:
        """Nothing to do: it cannot be revoked, it ends."""

    def _outputs(self, id: str, inputs: Properties, kubeconfig: str) -> Properties:
        given = self._ordered(self.given(inputs))
        return {**given, "kubeconfig": kubeconfig, "readyForRenewal": False, "id": id}


def _latest(api: Api) -> str:
    versions = api.call("list_sks_cluster_versions")["sks-cluster-versions"]
    if not versions:
        raise ProviderError("ListSKSClusterVersions: API returned empty list")
    return str(versions[0])


def _changed(old: Properties, new: Properties, name: str) -> bool:
    return old.get(name) != new.get(name)


def _audit(audit: Properties) -> Json:
    return {
        field: audit[name]
        for name, field in (
            ("endpoint", "endpoint"),
            ("bearerToken", "bearer-token"),
            ("initialBackoff", "initial-backoff"),
        )
        if audit.get(name)
    }


def _audit_update(audit: Properties) -> Json:
    enabled = bool(audit.get("enabled"))
    if enabled and not audit.get("endpoint"):
        raise ProviderError("cannot enable audit without setting an endpoint")
    return {"enabled": enabled, **_audit(audit)}


def _oidc(oidc: Properties | None) -> Json | None:
    if oidc is None:
        return None
    names = {
        "clientId": "client-id",
        "issuerUrl": "issuer-url",
        "groupsClaim": "groups-claim",
        "groupsPrefix": "groups-prefix",
        "requiredClaim": "required-claim",
        "usernameClaim": "username-claim",
        "usernamePrefix": "username-prefix",
    }
    return {field: oidc[name] for name, field in names.items() if name in oidc}


def _concealed(value: Any) -> Any:
    if isinstance(value, dict) and "bearerToken" in value:
        return {**value, "bearerToken": Secret(value["bearerToken"])}
    return value


def _pool_fields(api: Api, inputs: Properties) -> Json:
    """What an update can change."""
    garbage: Properties = next(iter(inputs.get("kubeletImageGcs", [])), {})
    return {
        "name": inputs.get("name"),
        "description": inputs.get("description", ""),
        "disk_size": inputs.get("diskSize"),
        "instance_prefix": inputs.get("instancePrefix"),
        "instance_type": _instance_type(api, inputs["instanceType"]),
        "public_ip_assignment": "dual" if inputs.get("ipv6") else "inet4",
        "labels": inputs.get("labels", {}),
        "taints": {key: _taint(value) for key, value in inputs.get("taints", {}).items()},
        "anti_affinity_groups": _references(inputs, "antiAffinityGroupIds"),
        "private_networks": _references(inputs, "privateNetworkIds"),
        "security_groups": _references(inputs, "securityGroupIds"),
        "deploy_target": {"id": inputs["deployTargetId"]} if inputs.get("deployTargetId") else None,
        "kubelet_image_gc": present(
            **{
                "min-age": garbage.get("minAge"),
                "low-threshold": garbage.get("lowThreshold"),
                "high-threshold": garbage.get("highThreshold"),
            }
        ),
    }


def _instance_type(api: Api, name: str) -> Json:
    family, _, size = name.lower().partition(".")
    for kind in api.call("list_instance_types")["instance-types"]:
        if (kind["family"], kind["size"]) == (family, size):
            return {"id": kind["id"]}
    raise ProviderError(f"error retrieving instance type: {name} not found")


def _taint(text: str) -> Json:
    value, _, effect = text.partition(":")
    if not value or not effect:
        raise ProviderError(f'invalid taint "{text}": expected format VALUE:EFFECT')
    return {"value": value, "effect": effect}


def _references(inputs: Properties, name: str) -> list[Json]:
    return [{"id": id} for id in sorted(inputs.get(name, []))]


def _ids(found: Mapping[str, Any], field: str) -> list[str]:
    return [reference["id"] for reference in found.get(field, [])]


def _time(text: str) -> str:
    """As the official plugin shows a time."""
    return datetime.datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S +0000 UTC")


def _certificates(kubeconfig: str) -> list[x509.Certificate]:
    document = yaml.safe_load(kubeconfig)
    encoded = [entry["cluster"]["certificate-authority-data"] for entry in document["clusters"]]
    encoded += [entry["user"]["client-certificate-data"] for entry in document["users"]]
    return [x509.load_pem_x509_certificate(base64.b64decode(text)) for text in encoded]


def _ends_within(kubeconfig: str, seconds: float) -> bool:
    if not kubeconfig:
        return True
    limit = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    return any(certificate.not_valid_after_utc <= limit for certificate in _certificates(kubeconfig))
