"""The Kubernetes API as its administrator sees it, and objects applied to it."""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import urllib3
from kubernetes.client import ApiClient, Configuration

from local import ports
from local.errors import LocalError
from local.servers import certificates
from local.supervisor import NotReady, wait_until

LOOPBACK = "127.0.0.1"
ADMIN = "kubernetes-admin"
"""The certificate of the administrator, and the administrator's name."""

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_PATIENT = urllib3.Retry(
    30,
    connect=0,
    read=0,
    allowed_methods=None,
    status_forcelist=[HTTPStatus.TOO_MANY_REQUESTS],
    raise_on_status=False,
)
"""The API says that it is too busy, and when to ask again, while it prepares to list a new kind."""
_MANAGER = "agent-platform-local"
_APPLIED = "agent-platform.local/applied"
"""The annotation that holds the digest of what was applied."""


def address() -> str:
    """Return the URL of the API."""
    return f"https://{LOOPBACK}:{ports.port('kube-apiserver')}"


def client() -> ApiClient:
    """Return the administrator's client."""
    configuration = Configuration()
    configuration.host = address()
    configuration.ssl_ca_cert = str(certificates.CA_FILE)
    configuration.cert_file = configuration.key_file = str(certificates.path(ADMIN))
    configuration.proxy = None  # a proxy in the user's environment does not lead to loopback
    return ApiClient(configuration)


def check(url: str, certificate: str | None = None) -> bytes:
    """Return what a server answers, to a kept certificate if given; NotReady unless that is 200 OK."""
    try:
        response = _pool(certificate).request("GET", url, timeout=5)
    except urllib3.exceptions.HTTPError as error:
        raise NotReady("not answering yet") from error
    if response.status != HTTPStatus.OK:
        raise NotReady(f"{url} answers {response.status}")
    return response.data


def get(path: str) -> dict[str, Any]:
    """Return an object of the API, or any of its documents."""
    return _call("GET", path)


def create(path: str, item: Mapping[str, Any]) -> dict[str, Any]:
    """Create an object below a path; returns it as the API has it."""
    return _call("POST", path, item)


def merge(path: str, change: Mapping[str, Any]) -> dict[str, Any]:
    """Merge a change into an object; returns it as it is now."""
    return _call("PATCH", path, change, _MERGE)


def apply(objects: Sequence[Mapping[str, Any]]) -> None:
    """Create the objects, or make them as they are given; the definitions of resources first, and awaited.

    An object that was last applied as it is given now is left alone: to apply all of KubeVirt and Longhorn
    again takes the API four seconds.
    """
    _digests.cache_clear()
    definitions = [item for item in objects if item["kind"] == "CustomResourceDefinition"]
    awaited = [_apply(item) for item in definitions]
    for path in awaited:
        wait_until(functools.partial(_established, path), timeout=30, what=f"kubernetes: {path}")
    _resources.cache_clear()
    for item in objects:
        if item["kind"] != "CustomResourceDefinition":
            _apply(item)


def _apply(item: Mapping[str, Any]) -> str:
    collection, metadata = _collection(item), item["metadata"]
    path = f"{collection}/{metadata['name']}"
    digest = hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest()
    if _digests(collection).get(metadata["name"]) != digest:
        annotations = {**metadata.get("annotations", {}), _APPLIED: digest}
        marked = {**item, "metadata": {**metadata, "annotations": annotations}}
        _call("PATCH", f"{path}?fieldManager={_MANAGER}&force=true", marked, _APPLY)
    return path


@functools.cache
def _digests(collection: str) -> dict[str, str]:
    """Return the digest of what was applied to each object of a collection, by name."""
    listed = _call("GET", collection, accept=_METADATA)["items"] or ()
    found = {each["metadata"]["name"]: each["metadata"].get("annotations", {}) for each in listed}
    return {name: annotations[_APPLIED] for name, annotations in found.items() if _APPLIED in annotations}


def _established(path: str) -> None:
    conditions = get(path).get("status", {}).get("conditions", [])
    if not any(each["type"] == "Established" and each["status"] == "True" for each in conditions):
        raise NotReady("not established yet")


def _collection(item: Mapping[str, Any]) -> str:
    group = ("/apis/" if "/" in item["apiVersion"] else "/api/") + item["apiVersion"]
    found = _resources(group).get(item["kind"])
    if found is None:
        raise LocalError(
            f"kubernetes: the API serves no {item['kind']} in {item['apiVersion']}, so "
            f"{item['metadata']['name']} cannot be made and the platform is not up; look into `make logs`."
        )
    plural, namespaced = found
    place = f"/namespaces/{item['metadata']['namespace']}" if namespaced else ""
    return f"{group}{place}/{plural}"


@functools.cache
def _resources(group: str) -> dict[str, tuple[str, bool]]:
    """Return plural name and whether it lies in namespaces, by kind."""
    listed = get(group)["resources"]
    return {each["kind"]: (each["name"], each["namespaced"]) for each in listed if "/" not in each["name"]}


def _call(
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    kind: str = "application/json",
    accept: str = "application/json",
) -> dict[str, Any]:
    headers = {"Accept": accept, "Content-Type": kind}
    content = None if body is None else json.dumps(body)
    try:
        response = _pool(ADMIN).request(
            method, address() + path, body=content, headers=headers, timeout=30, retries=_PATIENT
        )
    except urllib3.exceptions.HTTPError as error:
        raise LocalError(
            f"kubernetes: the API does not answer ({error}), so the platform is not up; "
            "see `make logs SERVER=kube-apiserver`, then run `make up` again."
        ) from error
    if not HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
        raise LocalError(
            f"kubernetes: {method} {path} is refused ({response.status}: {_message(response.data)}), "
            "so the platform is not up; see `make logs SERVER=kube-apiserver`, then run `make up` again."
        )
    answer: dict[str, Any] = json.loads(response.data)
    return answer


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:300]


@functools.cache
def _pool(certificate: str | None) -> urllib3.PoolManager:
    pair = str(certificates.path(certificate)) if certificate else None
    return urllib3.PoolManager(
        ca_certs=str(certificates.CA_FILE), cert_file=pair, key_file=pair, retries=False
    )
