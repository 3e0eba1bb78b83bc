"""Kubernetes objects as dictionaries: names, annotations, and what of a live object answers to the inputs."""

import base64
import hashlib
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from local.providers.values import Properties, Secret, Unknown, has_unknown

Manifest = dict[str, Any]

AUTONAMED = "pulumi.com/autonamed"

BUILT_IN = frozenset(
    {
        "",
        "admissionregistration.k8s.io",
        "apiextensions.k8s.io",
        "apiregistration.k8s.io",
        "apps",
        "autoscaling",
        "batch",
        "certificates.k8s.io",
        "coordination.k8s.io",
        "discovery.k8s.io",
        "events.k8s.io",
        "flowcontrol.apiserver.k8s.io",
        "networking.k8s.io",
        "node.k8s.io",
        "policy",
        "rbac.authorization.k8s.io",
        "resource.k8s.io",
        "scheduling.k8s.io",
        "storage.k8s.io",
    }
)
"""API groups that every cluster has."""

_SERVER_FIELDS = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "uid",
)
_DASHED = {
    "x_kubernetes_embedded_resource": "x-kubernetes-embedded-resource",
    "x_kubernetes_int_or_string": "x-kubernetes-int-or-string",
    "x_kubernetes_list_map_keys": "x-kubernetes-list-map-keys",
    "x_kubernetes_list_type": "x-kubernetes-list-type",
    "x_kubernetes_map_type": "x-kubernetes-map-type",
    "x_kubernetes_preserve_unknown_fields": "x-kubernetes-preserve-unknown-fields",
    "x_kubernetes_validations": "x-kubernetes-validations",
}
_UNDERSCORED = {dashed: name for name, dashed in _DASHED.items()}


def metadata(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Its metadata, empty where they are missing or not known yet."""
    value = manifest.get("metadata")
    return value if isinstance(value, dict) else {}


def name(manifest: Mapping[str, Any]) -> str:
    """Its name, empty where it has none or it is not known yet."""
    value = metadata(manifest).get("name")
    return value if isinstance(value, str) else ""


def namespace(manifest: Mapping[str, Any]) -> str:
    """Its namespace, empty where it has none or it is not known yet."""
    value = metadata(manifest).get("namespace")
    return value if isinstance(value, str) else ""


def annotation(manifest: Mapping[str, Any], key: str) -> str:
    """An annotation, empty where it is missing or not known yet."""
    annotations = metadata(manifest).get("annotations")
    value = annotations.get(key) if isinstance(annotations, dict) else None
    return value if isinstance(value, str) else ""


def group(manifest: Mapping[str, Any]) -> str:
    """Its API group; empty for the core's."""
    return str(manifest.get("apiVersion", "")).rpartition("/")[0]


def is_secret(manifest: Mapping[str, Any]) -> bool:
    """Whether it is a core Secret."""
    return manifest.get("kind") == "Secret" and group(manifest) == ""


def identifier(manifest: Mapping[str, Any]) -> str:
    """`namespace/name`, or `name` outside a namespace."""
    return f"{namespace(manifest)}/{name(manifest)}" if namespace(manifest) else name(manifest)


def split_identifier(identifier: str) -> tuple[str, str]:
    """The namespace (empty outside one) and the name."""
    namespace, separator, name = identifier.partition("/")
    return (namespace, name) if separator else ("", identifier)


def is_named(manifest: Mapping[str, Any]) -> bool:
    """Whether it has a name of its own, be it one that is not known yet."""
    value = metadata(manifest).get("name")
    return bool(value)


def autonamed(manifest: Manifest, resource_name: str, seed: bytes) -> Manifest:
    """The object under a name made of the resource's and eight random digits, marked as such.

    The digits follow from the engine's seed, so that preview and update agree.
    """
    digits = hashlib.sha256(seed or resource_name.encode()).hexdigest()[:8]
    return named(manifest, f"{resource_name}-{digits}")


def named(manifest: Manifest, name: str) -> Manifest:
    """The object under a name that was made for it."""
    about = metadata(manifest)
    annotations = about.get("annotations", {})
    if isinstance(annotations, dict):
        annotations = {**annotations, AUTONAMED: "true"}
    return {**manifest, "metadata": {**about, "name": name, "annotations": annotations}}


def with_namespace(manifest: Manifest, namespace: str) -> Manifest:
    """The object in a namespace, or in none."""
    about = {key: value for key, value in metadata(manifest).items() if key != "namespace"}
    if namespace:
        about["namespace"] = namespace
    return {**manifest, "metadata": about}


def normalized(manifest: Manifest) -> Manifest:
    """The inputs as the server would show them, so that they can be compared with what it shows."""
    result = dict(to_server(manifest))
    if isinstance(result.get("metadata"), dict):
        result["metadata"] = {
            key: value for key, value in result["metadata"].items() if key not in _SERVER_FIELDS
        }
    if is_secret(result) and not has_unknown(result):
        return _normalized_secret(result)
    if result.get("kind") == "CustomResourceDefinition":
        result.pop("status", None)
    elif group(result) in BUILT_IN:
        for part in ("spec", "overhead"):
            if part in result:
                result[part] = _with_canonical_quantities(result[part])
    return result


def _normalized_secret(manifest: Manifest) -> Manifest:
    texts = manifest.get("stringData")
    if not texts:
        return manifest
    encoded = {key: base64.b64encode(str(text).encode()).decode() for key, text in texts.items()}
    result = {key: value for key, value in manifest.items() if key != "stringData"}
    result["data"] = {**(manifest.get("data") or {}), **encoded}
    return result


def pruned(live: Any, inputs: Any) -> Any:
    """What of the live object answers to the inputs; what the server leaves out as empty is there."""
    if isinstance(live, dict) and isinstance(inputs, dict):
        result = {key: pruned(value, inputs[key]) for key, value in live.items() if key in inputs}
        empty = {key: value for key, value in inputs.items() if key not in live and _is_empty(value)}
        return {**result, **empty}
    if isinstance(live, list) and isinstance(inputs, list):
        return [pruned(value, wanted) for value, wanted in zip(live, inputs, strict=False)]
    return live


def _is_empty(value: Any) -> bool:
    return value in (None, False, 0, "", [], {}) and not isinstance(value, Unknown)


_QUANTITY_MAPS = frozenset(
    {
        "capacity",
        "default",
        "defaultRequest",
        "hard",
        "limits",
        "max",
        "maxLimitRequestRatio",
        "min",
        "podFixed",
        "requests",
    }
)
_QUANTITIES = frozenset({"averageValue", "divisor", "sizeLimit"})
_DECIMAL = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = ("Ki", "Mi", "Gi", "Ti", "Pi", "Ei")


def _with_canonical_quantities(value: Any, holder: str = "", key: str = "") -> Any:
    """`key` is what the value stands under, and `holder` what that mapping stands under."""
    if isinstance(value, dict):
        return {name: _with_canonical_quantities(item, key, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_canonical_quantities(item) for item in value]
    is_quantity = holder in _QUANTITY_MAPS or key in _QUANTITIES
    if not is_quantity or isinstance(value, bool) or not isinstance(value, str | int | float):
        return value
    return _canonical(str(value)) or value


def _canonical(text: str) -> str | None:
    """A quantity as the server writes it: the whole number with the largest suffix. None for other text."""
    match = re.fullmatch(r"([+-]?\d+(?:\.\d*)?|\.\d+)([numkMGTPE]?|[KMGTPE]i)", text)
    if match is None:
        return None
    number, suffix = Decimal(match[1]), match[2]
    if suffix in _BINARY:
        whole = number * 1024 ** (_BINARY.index(suffix) + 1)
        power = 0
        while whole and whole % 1024 == 0 and power < len(_BINARY):
            whole, power = whole / 1024, power + 1
        if power and whole == whole.to_integral_value():
            return f"{int(whole)}{_BINARY[power - 1]}"
        return None
    exact = number.scaleb(_DECIMAL[suffix])
    for name, exponent in sorted(_DECIMAL.items(), key=lambda item: -item[1]):
        scaled = exact.scaleb(-exponent)
        if scaled == scaled.to_integral_value() and (scaled or not name):
            return f"{int(scaled)}{name}"
    return None


def to_server(inputs: Properties) -> Manifest:
    """The inputs as the API takes them: the SDK writes the schema extensions of a CRD with underscores."""
    return _renamed(inputs, _DASHED) if _is_definition(inputs) else inputs


def from_server(live: Manifest) -> Properties:
    """A live object as the SDK reads it."""
    return _renamed(live, _UNDERSCORED) if _is_definition(live) else live


def _is_definition(manifest: Mapping[str, Any]) -> bool:
    return manifest.get("kind") == "CustomResourceDefinition"


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    return value


def with_secrets(manifest: Properties) -> Properties:
    """The data of a Secret are secret, whether the program says so or not."""
    if not is_secret(manifest):
        return manifest
    return {
        key: Secret(value) if key in ("data", "stringData") and value is not None else value
        for key, value in manifest.items()
    }


def checkpoint(inputs: Properties, live: Manifest, api_version: str, manager: str) -> Properties:
    """The outputs, laid out as the official plugin does, so that either reads the other's state."""
    return {
        **with_secrets(from_server(live)),
        "__inputs": with_secrets(from_server(inputs)),
        "__initialApiVersion": api_version,
        "__fieldManager": manager,
    }


def parse_checkpoint(outputs: Properties) -> tuple[Properties, Manifest]:
    """The inputs and the live object that a checkpoint was made of."""
    live = {key: value for key, value in outputs.items() if not key.startswith("__")}
    return to_server(outputs.get("__inputs", {})), to_server(live)
