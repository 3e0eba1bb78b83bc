"""The Kubernetes API as the agent uses it: plain objects, and a collection kept in step by a watch."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import urllib3
from kubernetes.client import ApiClient
from kubernetes.client.exceptions import ApiException

log = logging.getLogger(__name__)

Object = dict[str, Any]
"""A Kubernetes object as JSON."""

Key = tuple[str, str]
"""Namespace (empty for cluster-wide objects) and name."""

JSON = "application/json"
MERGE = "application/merge-patch+json"
STRATEGIC_MERGE = "application/strategic-merge-patch+json"

NOT_FOUND = 404
CONFLICT = 409
GONE = 410

_WATCH_SECONDS = 300
# Bookmarks come once a minute: a connection that says nothing for longer is dead, and all is listed again.
_SILENCE_SECONDS = 90
_RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)


def key_of(obj: Object) -> Key:
    """Return the key of `obj` in a `Watched` collection."""
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


class Api:
    """Requests with JSON in and out.

    Raises `ApiException` for a refusal, an error of `urllib3` for a lost connection.
    """

    def __init__(self, client: ApiClient) -> None:
        """Use the connection settings of `client`."""
        self._client = client
        self._troubles: set[str] = set()
        self._lock = threading.Lock()

    def get(self, path: str) -> Object:
        """Return the object or list at `path`."""
        return self._request("GET", path)

    def create(self, path: str, body: Object) -> Object:
        """Create `body` in the collection at `path`."""
        return self._request("POST", path, body)

    def patch(self, path: str, body: Object, kind: str = STRATEGIC_MERGE, user: str | None = None) -> Object:
        """Patch the object at `path`, on behalf of `user` if given; return it as it is now."""
        return self._request("PATCH", path, body, kind, user)

    def replace(self, path: str, body: Object, user: str) -> Object:
        """Put `body` in the place of the object at `path`, on behalf of `user`; return it as it is now."""
        return self._request("PUT", path, body, user=user)

    def delete(self, path: str, options: Object | None = None) -> None:
        """Delete the object at `path`; that it is gone already is no error."""
        try:
            self._request("DELETE", path, options or {})
        except ApiException as error:
            if error.status != NOT_FOUND:
                raise

    def watch(self, path: str, version: str) -> Iterator[Object]:
        """Yield the events after `version` until the server ends the watch, in five minutes at most."""
        query = (
            f"watch=true&allowWatchBookmarks=true&timeoutSeconds={_WATCH_SECONDS}&resourceVersion={version}"
        )
        response = self._send("GET", f"{path}?{query}", timeout=(5, _SILENCE_SECONDS))
        try:
            for line in _lines(response):
                event: Object = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise ApiException(status=status.get("code"), reason=status.get("message"))
                yield event
        finally:
            response.close()

    def trouble(self, about: str, error: Exception) -> None:
        """Log a failure that will be retried, once until `well` is called."""
        with self._lock:
            known = about in self._troubles
            self._troubles.add(about)
        if not known:
            log.warning("%s: %s; retrying until it works", about, brief(error))

    def well(self, about: str) -> None:
        """Log that `about` works again, if it did not."""
        with self._lock:
            known = about in self._troubles
            self._troubles.discard(about)
        if known:
            log.info("%s: works again", about)

    def _request(
        self, method: str, path: str, body: Object | None = None, kind: str = JSON, user: str | None = None
    ) -> Object:
        response = self._send(method, path, body, kind, user)
        try:
            answer: Object = json.loads(response.data)
        finally:
            response.release_conn()
        return answer

    def _send(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        kind: str = JSON,
        user: str | None = None,
        timeout: tuple[float, float] = (5, 30),
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": JSON, "Content-Type": kind, **({"Impersonate-User": user} if user else {})}
        request = self._client.param_serialize(
            method, path, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        response = self._client.call_api(*request, _request_timeout=timeout)
        if not 200 <= response.status <= 299:
            raise ApiException.from_response(
                http_resp=response, body=response.response.data.decode(), data=None
            )
        raw: urllib3.BaseHTTPResponse = response.response
        return raw


class Watched:
    """A collection of the API server, listed once and then followed by a watch in a thread of its own."""

    def __init__(self, api: Api, path: str, changed: Callable[[Object], None]) -> None:
        """Follow the collection at `path`; `changed` gets each object that came, changed or went."""
        self._api = api
        self._path = path
        self._changed = changed
        self._objects: dict[Key, Object] = {}
        self._lock = threading.Lock()
        self.synced = threading.Event()

    def start(self) -> None:
        """Start to follow; the thread ends with the process."""
        threading.Thread(target=self._follow, name=f"watch {self._path}", daemon=True).start()

    def get(self, key: Key) -> Object | None:
        """Return the object as last seen, not to be modified."""
        return self._objects.get(key)

    def all(self) -> list[Object]:
        """Return every object as last seen, not to be modified."""
        with self._lock:
            return list(self._objects.values())

    def put(self, obj: Object) -> None:
        """Take over an object that the API server has just answered with, unless a newer one is known."""
        key = key_of(obj)
        with self._lock:
            known = self._objects.get(key)
            if known is not None and _version(known) >= _version(obj):
                return
            self._objects[key] = obj

    def _follow(self) -> None:
        failures = 0
        while True:
            try:
                version = self._list()
                self._api.well(self._path)
                self._api.well("Kubernetes API")
                failures = 0
                while True:
                    version = self._watch(version)
            except ApiException as error:
                if error.status == GONE:
                    continue
                self._api.trouble(self._path, error)
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                self._api.trouble("Kubernetes API", error)
            except Exception as error:  # noqa: BLE001 - a thread that ended here would end unnoticed
                self._api.trouble(self._path, error)
            time.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
            failures += 1

    def _list(self) -> str:
        answer = self._api.get(self._path)
        listed = {key_of(item): item for item in answer["items"]}
        with self._lock:
            before, self._objects = self._objects, listed
        for key, obj in {**before, **listed}.items():
            if before.get(key) != listed.get(key):
                self._tell(obj)
        self.synced.set()
        return str(answer["metadata"]["resourceVersion"])

    def _watch(self, version: str) -> str:
        for event in self._api.watch(self._path, version):
            obj = event["object"]
            version = obj["metadata"]["resourceVersion"]
            if event["type"] == "DELETED":
                with self._lock:
                    self._objects.pop(key_of(obj), None)
            elif event["type"] != "BOOKMARK":
                self.put(obj)
            if event["type"] != "BOOKMARK":
                self._tell(obj)
        return version

    def _tell(self, obj: Object) -> None:
        try:
            self._changed(obj)
        except Exception:  # one odd object must not stop the watch of all
            log.exception("%s %s: left alone until it changes", self._path, "/".join(key_of(obj)))


def brief(error: Exception) -> str:
    """Return an error in one line, without the headers and retries that the client libraries add."""
    if isinstance(error, ApiException):
        try:
            return f"{error.status} {json.loads(error.body or '')['message']}"
        except (TypeError, ValueError, KeyError):
            return f"{error.status} {error.reason}"
    reason = getattr(error, "reason", None)
    return " ".join(str(reason or error).split())


def _version(obj: Object) -> int:
    return int(obj["metadata"]["resourceVersion"])


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    for chunk in response.stream(None, decode_content=True):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line for line in lines if line)
