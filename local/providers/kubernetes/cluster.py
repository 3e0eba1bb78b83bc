"""The raw API of one cluster: which kinds it has, and requests for objects. Safe to share between threads."""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

import urllib3

from local.providers.kubernetes.manifest import Manifest, name, namespace
from local.providers.provider import ProviderError

JSON = "application/json"
APPLY = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"

_CONNECTIONS = 64
"""Kept open at most; more requests at once open theirs and close them again."""

_TIMEOUT = urllib3.Timeout(connect=10, read=60)
_RETRIES = urllib3.Retry(
    total=10,
    connect=1,
    read=0,
    redirect=0,
    allowed_methods=None,
    status_forcelist=[HTTPStatus.TOO_MANY_REQUESTS],
    raise_on_status=False,
)
"""Only what the server has certainly not done: no connection, or turned away while it is busy."""


class UnreachableError(ProviderError):
    """No answer from the API at all."""


class RefusedError(ProviderError):
    """The API's answer was an error; its message is the exception's."""

    def __init__(self, status: int, answer: Mapping[str, Any]) -> None:
        """`answer` is the API's Status object."""
        super().__init__(str(answer.get("message") or HTTPStatus(status).phrase))
        self.status = status
        self.reason = str(answer.get("reason", ""))
        self.details: Mapping[str, Any] = answer.get("details") or {}

    @property
    def not_found(self) -> bool:
        """The object, its kind or its namespace does not exist."""
        return self.status == HTTPStatus.NOT_FOUND

    @property
    def namespace_not_found(self) -> bool:
        """Its namespace does not exist."""
        return self.not_found and self.details.get("kind") == "namespaces"

    @property
    def already_exists(self) -> bool:
        """There is one of that name."""
        return self.reason == "AlreadyExists"

    @property
    def conflict(self) -> bool:
        """Another field manager owns what the request would change."""
        return self.status == HTTPStatus.CONFLICT and not self.already_exists

    @property
    def forbidden(self) -> bool:
        """The credentials do not allow it."""
        return self.status == HTTPStatus.FORBIDDEN


class NoMatchError(ProviderError):
    """The API has no such kind: its definition has not been created, or is gone."""

    def __init__(self, api_version: str, kind: str) -> None:
        """The kind that is missing."""
        super().__init__(f'no matches for kind "{kind}" in version "{api_version}"')


@dataclass(frozen=True)
class Kind:
    """Where the objects of a kind are."""

    path: str
    """Of the API version."""
    plural: str
    namespaced: bool

    def url(self, namespace: str, name: str = "") -> str:
        """The path of the collection, or of one object."""
        place = f"/namespaces/{quote(namespace or 'default', safe='')}" if self.namespaced else ""
        return f"{self.path}{place}/{self.plural}" + (f"/{quote(name, safe=':')}" if name else "")


class Cluster:
    """One cluster, as the credentials of a kubeconfig see it."""

    def __init__(self, kubeconfig: Mapping[str, Any], context: str | None) -> None:
        """Raises `UnreachableError` when the kubeconfig leads nowhere; opens no connection."""
        # Imported at need: it costs a second, and a preview without a cluster does without it.
        from kubernetes.client import ApiClient
        from kubernetes.config import ConfigException, new_client_from_config_dict

        try:
            client: ApiClient = new_client_from_config_dict(  # type: ignore[no-untyped-call]
                dict(kubeconfig), context=context, persist_config=False
            )
        except ConfigException as error:
            raise UnreachableError(str(error)) from error
        configuration = client.configuration
        configuration.retries = _RETRIES
        configuration.connection_pool_maxsize = _CONNECTIONS
        self._client = ApiClient(configuration)
        self._kinds: dict[str, dict[str, Kind]] = {}
        self._lock = threading.Lock()

    def version(self) -> str:
        """What the server calls its version: the first sign of life."""
        return str(self._request("GET", "/version")["gitVersion"])

    def kind(self, manifest: Mapping[str, Any]) -> Kind:
        """Where an object belongs. Raises `NoMatchError`."""
        api_version, kind = str(manifest.get("apiVersion")), str(manifest.get("kind"))
        found = self._kinds.get(api_version, {}).get(kind)
        if found is None:
            with self._lock:
                # A kind that was missing is asked for anew: its definition may have come since.
                found = self._kinds.get(api_version, {}).get(kind) or self._discover(api_version).get(kind)
        if found is None:
            raise NoMatchError(api_version, kind)
        return found

    def _discover(self, api_version: str) -> dict[str, Kind]:
        path = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        try:
            resources = self._request("GET", path)["resources"]
        except RefusedError as error:
            if error.not_found:
                return {}
            raise
        self._kinds[api_version] = {
            resource["kind"]: Kind(path, resource["name"], resource["namespaced"])
            for resource in resources
            if "/" not in resource["name"]
        }
        return self._kinds[api_version]

    def forget_kinds(self) -> None:
        """A definition has changed: ask again."""
        self._kinds.clear()

    def get(self, manifest: Manifest) -> Manifest:
        """The live object."""
        return self._request("GET", self.kind(manifest).url(namespace(manifest), name(manifest)))

    def find(self, manifest: Manifest) -> Manifest | None:
        """The live object, None when it does not exist."""
        try:
            return self.get(manifest)
        except NoMatchError:
            return None
        except RefusedError as error:
            if error.not_found:
                return None
            raise

    def create(self, manifest: Manifest, *, manager: str, dry_run: bool) -> Manifest:
        """Make a new object. An unknown field is refused, not dropped."""
        query = {"fieldManager": manager, "fieldValidation": "Strict"}
        url = self.kind(manifest).url(namespace(manifest))
        return self._request("POST", url, _dry(query, dry_run), manifest, JSON)

    def apply(self, manifest: Manifest, *, manager: str, force: bool, dry_run: bool) -> Manifest:
        """Server-side apply: make the object, or change it to have these fields."""
        query = {"fieldManager": manager, "force": str(force).lower(), "fieldValidation": "Strict"}
        url = self.kind(manifest).url(namespace(manifest), name(manifest))
        return self._request("PATCH", url, _dry(query, dry_run), manifest, APPLY)

    def json_patch(self, manifest: Manifest, operations: list[dict[str, Any]]) -> Manifest:
        """Change an object by JSON patch."""
        url = self.kind(manifest).url(namespace(manifest), name(manifest))
        return self._request("PATCH", url, {}, operations, JSON_PATCH)

    def delete(self, manifest: Manifest, *, propagation: str) -> None:
        """Have it deleted; it may take a while to be gone."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        self._request("DELETE", self.kind(manifest).url(namespace(manifest), name(manifest)), {}, body, JSON)

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        kind: str = JSON,
    ) -> dict[str, Any]:
        headers = {**self._client.default_headers, "Accept": JSON, "Content-Type": kind}
        url = self._client.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        self._client.update_params_for_auth(headers, [], ["BearerToken"], url, method, body)
        try:
            response = self._client.rest_client.pool_manager.request(
                method,
                url,
                headers=headers,
                body=None if body is None else json.dumps(body).encode(),
                timeout=_TIMEOUT,
            )
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableError(f"{method} {url.partition('?')[0]}: {_cause(error)}") from error
        answer = _answer(response.data)
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise RefusedError(response.status, answer)
        return answer


def _dry(query: dict[str, str], dry_run: bool) -> dict[str, str]:
    return {**query, "dryRun": "All"} if dry_run else query


def _answer(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else {"message": body.decode(errors="replace").strip()}


def _cause(error: urllib3.exceptions.HTTPError) -> str:
    """Its last words: urllib3 puts the object's representation before them."""
    reason = getattr(error, "reason", None) or error
    return str(reason).rpartition(">: ")[2] or type(reason).__name__
