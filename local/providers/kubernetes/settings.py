"""The provider's configuration: the cluster that it leads to, and how objects are handled there."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from local.providers.provider import Failure
from local.providers.values import Properties, Unknown

_NEEDS_OFFICIAL = {
    "renderYamlToDirectory": "rendering manifests to files",
    "alwaysRender": "rendering manifests to files",
}
_ENVIRONMENT = {
    "deleteUnreachable": "PULUMI_K8S_DELETE_UNREACHABLE",
    "skipUpdateUnreachable": "PULUMI_K8S_SKIP_UPDATE_UNREACHABLE",
    "enableServerSideApply": "PULUMI_K8S_ENABLE_SERVER_SIDE_APPLY",
    "enablePatchForce": "PULUMI_K8S_ENABLE_PATCH_FORCE",
    "upsertExistingObjects": "PULUMI_K8S_UPSERT_EXISTING_OBJECTS",
    "enableConfigMapMutable": "PULUMI_K8S_ENABLE_CONFIGMAP_MUTABLE",
    "enableSecretMutable": "PULUMI_K8S_ENABLE_SECRET_MUTABLE",
}


class KubeconfigError(Exception):
    """There is no usable kubeconfig; the message says why."""


@dataclass(frozen=True)
class Settings:
    """The configuration, with what the environment adds."""

    kubeconfig: str
    """Contents or path; empty: `KUBECONFIG`, or the user's own file."""
    context: str
    cluster: str
    namespace: str
    delete_unreachable: bool
    skip_update_unreachable: bool
    patch_force: bool
    upsert: bool
    config_map_mutable: bool
    secret_mutable: bool


def read(config: Properties) -> Settings:
    """The settings of a configuration that has passed `failures`."""
    return Settings(
        kubeconfig=str(config.get("kubeconfig") or ""),
        context=str(config.get("context") or ""),
        cluster=str(config.get("cluster") or ""),
        namespace=str(config.get("namespace") or ""),
        delete_unreachable=_switch(config, "deleteUnreachable"),
        skip_update_unreachable=_switch(config, "skipUpdateUnreachable"),
        patch_force=_switch(config, "enablePatchForce"),
        upsert=_switch(config, "upsertExistingObjects"),
        config_map_mutable=_switch(config, "enableConfigMapMutable"),
        secret_mutable=_switch(config, "enableSecretMutable"),
    )


def failures(config: Properties) -> list[Failure]:
    """What the official plugin offers and the stand-in does not."""
    found = [
        Failure(
            key,
            f'The stand-in for the kubernetes plugin does not have {what} ("{key}"); '
            "put the official pulumi-resource-kubernetes on PATH.",
        )
        for key, what in _NEEDS_OFFICIAL.items()
        if config.get(key)
    ]
    if not _switch(config, "enableServerSideApply", default=True):
        found.append(
            Failure(
                "enableServerSideApply",
                "The stand-in for the kubernetes plugin knows server-side apply only; leave "
                '"enableServerSideApply" out, or put the official pulumi-resource-kubernetes on PATH.',
            )
        )
    return found


def _switch(config: Properties, key: str, *, default: bool = False) -> bool:
    value = config.get(key)
    if value is None or isinstance(value, Unknown):
        value = os.environ.get(_ENVIRONMENT[key], default)
    return value in (True, "true")


def kubeconfig(value: str) -> dict[str, Any]:
    """A kubeconfig from its contents or its path, or the ambient one. Raises `KubeconfigError`."""
    if value:
        return _parsed(value)
    ambient = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    path = Path(ambient.partition(os.pathsep)[0])
    if not path.is_file():
        raise KubeconfigError(f"there is no kubeconfig: none is configured, and {path} does not exist")
    return _parsed(str(path))


def _parsed(value: str) -> dict[str, Any]:
    text = value
    if "\n" not in value and "{" not in value:
        path = Path(value).expanduser()
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise KubeconfigError(f"{path}: {error.strerror}") from error
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise KubeconfigError("it is no YAML") from error
    if not isinstance(document, dict) or not document.get("clusters"):
        raise KubeconfigError("it is no kubeconfig: it names no cluster")
    return document


def active_context(document: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The context that the settings select, empty where there is none."""
    selected = settings.context or document.get("current-context")
    for context in document.get("contexts") or []:
        if context.get("name") == selected:
            return dict(context.get("context") or {})
    return {}


def with_cluster(document: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The kubeconfig with its active context led to the cluster that the settings name, if they do."""
    if not settings.cluster:
        return document
    selected = settings.context or document.get("current-context")
    contexts = [
        {**each, "context": {**each.get("context", {}), "cluster": settings.cluster}}
        if each.get("name") == selected
        else each
        for each in document.get("contexts") or []
    ]
    return {**document, "contexts": contexts}


def active_cluster(config: Properties) -> Mapping[str, Any] | None:
    """The cluster that a configuration leads to, None where it cannot be told."""
    settings = read(config)
    if not settings.kubeconfig:
        return None
    try:
        document = _parsed(settings.kubeconfig)
    except KubeconfigError:
        return None
    wanted = settings.cluster or active_context(document, settings).get("cluster")
    for cluster in document["clusters"]:
        if cluster.get("name") == wanted:
            found: Mapping[str, Any] = cluster.get("cluster") or {}
            return found
    return None
