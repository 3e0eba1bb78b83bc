"""What a container of ours finds around it: environment, files and token, from its Pod's spec."""

import base64
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from kubernetes.client.exceptions import ApiException

from local.node_agent.containers import Command
from local.node_agent.isolation import ENVOY, PYTHON, Isolation, Mount
from local.node_agent.kube import NOT_FOUND, Api, Object

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_PROGRAMS = {"python": PYTHON, "python3": PYTHON, "envoy": ENVOY}
_REFERENCE = re.compile(r"\$(\$|\(([-._a-zA-Z][-._a-zA-Z0-9]*)\))")


class ConfigurationError(Exception):
    """The Pod asks for what is not there, or cannot be had here; the kubelet's CreateContainerConfigError."""


class Sandbox:
    """One Pod's surroundings, written below `folder`."""

    def __init__(
        self, api: Api, pod: Object, folder: Path, server: str, addresses: Mapping[str, str]
    ) -> None:
        """Prepare for `pod`; `server` is the API server's URL, `addresses` has podIP and hostIP."""
        self._api = api
        self._pod = pod
        self._volumes = folder / "volumes"
        self._server = urlsplit(server)
        self._addresses = addresses
        self._namespace = pod["metadata"]["namespace"]

    def write_volumes(self) -> float | None:
        """Write or refresh all volumes; return when a token wants it again, in seconds since the epoch."""
        renewals = [self._write(volume) for volume in self._pod["spec"].get("volumes") or ()]
        return min((renewal for renewal in renewals if renewal is not None), default=None)

    def service_account(self) -> dict[str, bytes]:
        """Return what every container of the Pod finds in its service account's folder."""
        mounts = self._pod["spec"]["containers"][0].get("volumeMounts") or ()
        name = next((mount["name"] for mount in mounts if mount["mountPath"] == SERVICE_ACCOUNT), None)
        volume = next((v for v in self._pod["spec"].get("volumes") or () if v["name"] == name), None)
        if volume is None:
            raise ConfigurationError(
                f"pod {self._pod['metadata']['name']} is given no service account's token"
            )
        self._write(volume)
        return {path.name: path.read_bytes() for path in sorted((self._volumes / volume["name"]).iterdir())}

    def command(self, container: Object) -> Command:
        """Return what to run for `container`; `python` is this interpreter, `envoy` that of its packages."""
        environment = self._environment(container)
        arguments = [
            _expand(text, environment) for text in [*container.get("command", ()), *container.get("args", ())]
        ]
        if not container.get("command"):
            raise ConfigurationError(
                f"container {container['name']} has no command: the image's own is unknown here, set one"
            )
        arguments[0] = _PROGRAMS.get(arguments[0], arguments[0])
        mounts = [self._mount(mount) for mount in container.get("volumeMounts") or ()]
        _check_apart(mounts)
        isolation = Isolation(
            address=self._addresses["podIP"], hostname=self._pod["metadata"]["name"], mounts=mounts
        )
        return Command(arguments=arguments, environment=environment, isolation=isolation)

    def _mount(self, mount: Object) -> Mount:
        volumes = self._pod["spec"].get("volumes") or ()
        written = any(volume["name"] == mount["name"] and "emptyDir" in volume for volume in volumes)
        if written and mount.get("subPath"):
            # It would be followed outside the container, and the container may have made a link of it.
            raise ConfigurationError(f"volume {mount['name']}: subPath of an emptyDir is not supported here")
        source = self._volumes / mount["name"] / mount.get("subPath", "")
        if not source.exists():
            raise ConfigurationError(f"volume {mount['name']} has no {mount.get('subPath', 'content')}")
        return Mount(source, mount["mountPath"], written and not mount.get("readOnly"))

    def _environment(self, container: Object) -> dict[str, str]:
        environment = {
            "PATH": os.defpath,
            "HOME": "/",
            "HOSTNAME": self._pod["metadata"]["name"],
            "KUBERNETES_SERVICE_HOST": str(self._server.hostname),
            "KUBERNETES_SERVICE_PORT": str(self._server.port),
            "KUBERNETES_SERVICE_PORT_HTTPS": str(self._server.port),
        }
        for source in container.get("envFrom") or ():
            prefix = source.get("prefix", "")
            if "configMapRef" in source:
                data = self._data("configmaps", source["configMapRef"])
            else:
                data = self._data("secrets", source["secretRef"])
            environment |= {prefix + name: value.decode() for name, value in data.items()}
        for variable in container.get("env") or ():
            if "valueFrom" in variable:
                value = self._value(variable["valueFrom"])
                if value is not None:
                    environment[variable["name"]] = value
            else:
                environment[variable["name"]] = _expand(variable.get("value", ""), environment)
        return environment

    def _value(self, source: Object) -> str | None:
        if "fieldRef" in source:
            return self._field(source["fieldRef"]["fieldPath"])
        for kind, name in (("secrets", "secretKeyRef"), ("configmaps", "configMapKeyRef")):
            if name in source:
                reference = source[name]
                data = self._data(kind, reference)
                if reference["key"] in data:
                    return data[reference["key"]].decode()
                if reference.get("optional"):
                    return None
                raise ConfigurationError(f"{kind} {reference['name']} has no key {reference['key']}")
        raise ConfigurationError(f"environment from {', '.join(source)} is not supported here")

    def _field(self, path: str) -> str:
        metadata, spec = self._pod["metadata"], self._pod["spec"]
        fields: dict[str, Callable[[], str]] = {
            "metadata.name": lambda: metadata["name"],
            "metadata.namespace": lambda: metadata["namespace"],
            "metadata.uid": lambda: metadata["uid"],
            "spec.nodeName": lambda: spec["nodeName"],
            "spec.serviceAccountName": lambda: spec["serviceAccountName"],
            "status.podIP": lambda: self._addresses["podIP"],
            "status.hostIP": lambda: self._addresses["hostIP"],
        }
        if path in fields:
            return fields[path]()
        match = re.fullmatch(r"metadata\.(labels|annotations)(?:\['(.+)'\])?", path)
        if match is None:
            raise ConfigurationError(f"fieldPath {path} is not supported here")
        values: dict[str, str] = metadata.get(match[1]) or {}
        if match[2]:
            return values.get(match[2], "")
        return "".join(f"{key}={json.dumps(value)}\n" for key, value in sorted(values.items()))

    def _data(self, kind: str, reference: Object) -> dict[str, bytes]:
        name = reference.get("name") or reference.get("secretName")
        try:
            found = self._api.get(f"/api/v1/namespaces/{self._namespace}/{kind}/{name}")
        except ApiException as error:
            if error.status != NOT_FOUND:
                raise
            if reference.get("optional"):
                return {}
            raise ConfigurationError(f"{kind} {name} not found in namespace {self._namespace}") from error
        encoded: dict[str, Any] = found.get("data") or {}
        if kind == "secrets":
            return {key: base64.b64decode(value) for key, value in encoded.items()}
        binary: dict[str, Any] = found.get("binaryData") or {}
        return {key: value.encode() for key, value in encoded.items()} | {
            key: base64.b64decode(value) for key, value in binary.items()
        }

    def _write(self, volume: Object) -> float | None:
        folder = self._volumes / volume["name"]
        folder.mkdir(parents=True, exist_ok=True)
        # Nobody else gets as far as this folder: the one of all Pods is closed.
        folder.chmod(0o777 if "emptyDir" in volume else 0o755)
        if "emptyDir" in volume:
            return None
        if "configMap" in volume:
            _write_items(folder, self._data("configmaps", volume["configMap"]), volume["configMap"])
        elif "secret" in volume:
            _write_items(folder, self._data("secrets", volume["secret"]), volume["secret"])
        elif "downwardAPI" in volume:
            self._write_fields(folder, volume["downwardAPI"])
        elif "projected" in volume:
            renewals = [self._project(folder, source) for source in volume["projected"].get("sources") or ()]
            return min((renewal for renewal in renewals if renewal is not None), default=None)
        else:
            raise ConfigurationError(
                f"volume {volume['name']}: {', '.join(set(volume) - {'name'})} is not supported here"
            )
        return None

    def _project(self, folder: Path, source: Object) -> float | None:
        if "configMap" in source:
            _write_items(folder, self._data("configmaps", source["configMap"]), source["configMap"])
        elif "secret" in source:
            _write_items(folder, self._data("secrets", source["secret"]), source["secret"])
        elif "downwardAPI" in source:
            self._write_fields(folder, source["downwardAPI"])
        elif "serviceAccountToken" in source:
            return self._write_token(folder, source["serviceAccountToken"])
        return None

    def _write_fields(self, folder: Path, source: Object) -> None:
        for item in source.get("items") or ():
            _write_file(folder / item["path"], self._field(item["fieldRef"]["fieldPath"]).encode())

    def _write_token(self, folder: Path, source: Object) -> float:
        """Write a token bound to the Pod; it is to be renewed when a fifth of its life is left."""
        metadata = self._pod["metadata"]
        account = self._pod["spec"].get("serviceAccountName") or "default"
        bound = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [source["audience"]] if source.get("audience") else [],
                "expirationSeconds": source.get("expirationSeconds", 3600),
                "boundObjectRef": bound,
            },
        }
        path = f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{account}/token"
        issued = self._api.create(path, request)["status"]
        _write_file(folder / source["path"], issued["token"].encode())
        now = time.time()
        expires = datetime.fromisoformat(issued["expirationTimestamp"]).timestamp()
        return now + 0.8 * (expires - now)


def _write_items(folder: Path, data: Mapping[str, bytes], source: Object) -> None:
    items = source.get("items")
    paths = {item["key"]: item["path"] for item in items} if items else {key: key for key in data}
    missing = set(paths) - set(data)
    if missing and not source.get("optional"):
        raise ConfigurationError(
            f"{source.get('name') or source.get('secretName')} has no key {min(missing)}"
        )
    for key in set(paths) & set(data):
        _write_file(folder / paths[key], data[key])


def _write_file(path: Path, content: bytes) -> None:
    """Write at once as a whole, readable by whoever gets into the Pod's folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o755)
    part = path.with_name(f".{path.name}.part")
    part.touch(mode=0o600)
    part.write_bytes(content)
    part.chmod(0o644)
    part.replace(path)


def _check_apart(mounts: Sequence[Mount]) -> None:
    """Refuse a mount within another: it would be made from outside, where a container may have put a link."""
    targets = [PurePosixPath(mount.target) for mount in mounts]
    for inner in targets:
        if any(outer in inner.parents for outer in targets):
            raise ConfigurationError(f"{inner} is mounted within another volume: that is not supported here")


def _expand(text: str, environment: Mapping[str, str]) -> str:
    """Replace `$(NAME)`; `$$` is a dollar, and an unknown name stays as it is."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[1] == "$" else environment.get(match[2], match[0])

    return _REFERENCE.sub(value, text)
