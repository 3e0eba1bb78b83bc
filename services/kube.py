"""The Kubernetes API as the services use it: plain objects, and collections kept in step by a watch."""

import asyncio
import base64
import json
import logging
import os
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Generic, TypeVar

import aiohttp
import yaml

log = logging.getLogger(__name__)

Object = dict[str, Any]
"""A Kubernetes object as JSON."""

T = TypeVar("T")

Key = tuple[str, str]
"""Namespace and name."""

_SENSELESS = (AttributeError, LookupError, TypeError)

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TOKEN_SECONDS = 60
_REQUEST = aiohttp.ClientTimeout(total=10, connect=5)
_WATCH_SECONDS = 300
# Bookmarks come once a minute: a connection that says nothing for longer is dead, and all is listed again.
_SILENCE_SECONDS = 90.0
SILENT_SECONDS = 2 * _SILENCE_SECONDS
"""A collection of which nothing is heard for longer has been asked for again, and there was no answer."""
_RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
# One line of a watch is one object; etcd takes none above 1.5 MiB.
_LINE_BYTES = 4 * 1024 * 1024


class ApiError(Exception):
    """The API server refused; anything else that goes wrong is an `OSError` or `aiohttp.ClientError`."""

    def __init__(self, status: int, message: str) -> None:
        """Keep the HTTP status and the server's words."""
        super().__init__(f"{status} {message}")
        self.status = status


UNREACHABLE = (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError)
"""What a request raises when the API server is away or talks nonsense."""

TRY_AGAIN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS)
"""Refusals below 500 that another attempt may not meet."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """Where the API server is and how it knows us."""

    server: str
    tls: ssl.SSLContext
    token_file: Path | None = None

    @classmethod
    def find(cls) -> "Access":
        """Return the access that `KUBECONFIG` names, else that of the Pod's service account."""
        path = os.environ.get("KUBECONFIG")
        return cls.from_file(Path(path)) if path else cls._of_pod()

    @classmethod
    def _of_pod(cls) -> "Access":
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        return cls(
            server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
            tls=ssl.create_default_context(cafile=str(_SERVICE_ACCOUNT / "ca.crt")),
            token_file=_SERVICE_ACCOUNT / "token",
        )

    @classmethod
    def from_file(cls, path: Path) -> "Access":
        """Return the access of a kubeconfig's current context."""
        config = yaml.safe_load(path.read_text())
        context = _named(config["contexts"], config["current-context"])["context"]
        cluster = _named(config["clusters"], context["cluster"])["cluster"]
        user = _named(config["users"], context["user"])["user"]
        tls = ssl.create_default_context(
            cafile=cluster.get("certificate-authority"),
            cadata=_decoded(cluster, "certificate-authority-data"),
        )
        if certificate := _decoded(user, "client-certificate-data"):
            # The ssl module reads a certificate from files only.
            with tempfile.NamedTemporaryFile("w") as pair:
                pair.write(certificate + "\n" + (_decoded(user, "client-key-data") or ""))
                pair.flush()
                tls.load_cert_chain(pair.name)
        token = user.get("tokenFile")
        return cls(server=cluster["server"].rstrip("/"), tls=tls, token_file=Path(token) if token else None)


class Api:
    """Requests with JSON in and out; raises `ApiError` or one of `UNREACHABLE`."""

    def __init__(self, access: Access) -> None:
        """Use `access`; must be made inside the event loop."""
        self._access = access
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=access.tls, limit=0),
            # KubeVirt answers start and stop with nothing, and refuses who asks for JSON alone (406).
            headers={"Accept": "application/json, */*"},
            timeout=_REQUEST,
            read_bufsize=_LINE_BYTES,
        )
        self._token = ""
        self._token_read = -float(_TOKEN_SECONDS)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def request(
        self, method: str, path: str, body: Object | None = None, query: dict[str, str] | None = None
    ) -> Object:
        """Return what the server answers."""
        async with self._session.request(
            method, self._access.server + path, json=body, params=query, headers=self._headers()
        ) as response:
            await _refusal(response)
            text = await response.text()
        return _object(text) if text else {}

    async def watch(self, path: str, query: dict[str, str]) -> AsyncIterator[Object]:
        """Yield events until the server ends the watch, in five minutes at most."""
        query = {
            **query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        patience = aiohttp.ClientTimeout(total=None, connect=5, sock_read=_SILENCE_SECONDS)
        async with self._session.get(
            self._access.server + path, params=query, headers=self._headers(), timeout=patience
        ) as response:
            await _refusal(response)
            async for line in response.content:
                event = _object(line)
                if event.get("type") == "ERROR":
                    status = event.get("object") or {}
                    raise ApiError(status.get("code", 500), status.get("message", ""))
                yield event

    def _headers(self) -> dict[str, str]:
        if self._access.token_file is None:
            return {}
        # The kubelet renews the token in its file long before it expires.
        if time.monotonic() - self._token_read > _TOKEN_SECONDS:
            self._token = self._access.token_file.read_text().strip()
            self._token_read = time.monotonic()
        return {"Authorization": f"Bearer {self._token}"}


class Watched(Generic[T]):
    """A collection of the API server, listed once and then followed by a watch.

    While the API server is away it holds what was last seen. `synced` is set after the first list. An object
    that `read` cannot make sense of is told, and absent until it changes: it is no other's trouble.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        read: Callable[[Object], T],
        changed: Callable[[Key], None] | None = None,
        selector: str = "",
    ) -> None:
        """Follow the objects at `path` and keep what `read` makes of each; `changed` is told which did."""
        self._api = api
        self._path = path
        self._query = {"labelSelector": selector} if selector else {}
        self._read = read
        self._told = changed or (lambda _: None)
        self._items: dict[Key, T] = {}
        self._unreadable: dict[Key, str] = {}
        self._heard = time.monotonic()
        self.synced = asyncio.Event()

    @property
    def silence(self) -> float:
        """Return for how many seconds nothing has been heard of the collection."""
        return time.monotonic() - self._heard

    def get(self, key: Key) -> T | None:
        """Return one as last seen."""
        return self._items.get(key)

    def unreadable(self, key: Key) -> str:
        """Return why one is absent that the API server has; empty if it is not for being unreadable."""
        return self._unreadable.get(key, "")

    def items(self) -> list[tuple[Key, T]]:
        """Return all as last seen."""
        return list(self._items.items())

    async def follow(self) -> None:
        """Stay in step until cancelled."""
        failures = 0
        while True:
            try:
                version = await self._list()
                if failures:
                    log.info("%s: the Kubernetes API answers again", self._path)
                failures = 0
                while True:
                    version = await self._follow_from(version)
            except ApiError as error:
                if error.status == HTTPStatus.GONE:
                    continue
                self._warn(error, failures)
            except UNREACHABLE as error:
                self._warn(error, failures)
            await asyncio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
            failures += 1

    def _warn(self, error: Exception, failures: int) -> None:
        if failures == 0:
            log.warning(
                "%s: %s; what is known stays, retrying until it works", self._path, error or "timeout"
            )

    async def _list(self) -> str:
        found: dict[Key, Object] = {}
        query = {**self._query, "limit": "500"}
        while True:
            answer = await self._api.request("GET", self._path, query=query)
            try:
                found |= {_key(item): item for item in answer["items"]}
                metadata = answer["metadata"]
                more, version = metadata.get("continue"), str(metadata["resourceVersion"])
            except _SENSELESS as error:
                raise ValueError(f"a list that makes no sense ({error!r})") from None
            if not more:
                break
            query["continue"] = more
        self._heard = time.monotonic()
        for key in self._items.keys() | self._unreadable.keys() | found.keys():
            before = self._items.get(key)
            self._take(key, found.get(key))
            if before != self._items.get(key):
                self._told(key)
        self.synced.set()
        return version

    async def _follow_from(self, version: str) -> str:
        async for event in self._api.watch(self._path, {**self._query, "resourceVersion": version}):
            try:
                kind, item = event["type"], event["object"]
                version = str(item["metadata"]["resourceVersion"])
                key = ("", "") if kind == "BOOKMARK" else _key(item)
            except _SENSELESS as error:
                raise ValueError(f"an event that makes no sense ({error!r})") from None
            self._heard = time.monotonic()
            if kind != "BOOKMARK":
                self._take(key, None if kind == "DELETED" else item)
                self._told(key)
        return version

    def _take(self, key: Key, item: Object | None) -> None:
        """Keep what an object says, or that there is none."""
        told = self._unreadable.pop(key, "")
        self._items.pop(key, None)
        if item is None:
            return
        try:
            self._items[key] = self._read(item)
        except Exception as error:  # noqa: BLE001 - what one object holds must not end the watch of all
            self._unreadable[key] = f"{type(error).__name__}: {error}"
            if told != self._unreadable[key]:
                log.error(
                    "%s: %s cannot be read (%s); it is taken for absent until it changes",
                    *(self._path, "/".join(filter(None, key)), self._unreadable[key]),
                )


def _key(item: Object) -> Key:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


def _object(text: str | bytes) -> Object:
    """Read a JSON object. Raises `ValueError`."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("an answer that is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("an answer that is no JSON object")
    return found


def _named(entries: list[Object], name: str) -> Object:
    return next(entry for entry in entries if entry["name"] == name)


def _decoded(entry: Object, name: str) -> str | None:
    return base64.b64decode(entry[name]).decode() if name in entry else None


async def _refusal(response: aiohttp.ClientResponse) -> None:
    """Raise what the server refused, in its words."""
    if response.status < HTTPStatus.BAD_REQUEST:
        return
    text = await response.text()
    try:
        message = str(_object(text)["message"])
    except (ValueError, KeyError):
        message = response.reason or text[:200]
    raise ApiError(response.status, message)
