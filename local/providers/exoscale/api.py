"""The official SDK, with one client per zone and the SDK's errors as one message."""

import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import requests
from exoscale.api.exceptions import ExoscaleAPIException  # type: ignore[import-untyped]
from exoscale.api.v2 import Client  # type: ignore[import-untyped]

from local.providers.provider import ProviderError

Json = dict[str, Any]

DEFAULT_URL = "https://api-ch-gva-2.exoscale.com/v2"
"""Where the API is without `EXOSCALE_API_ENDPOINT`; also where everything that has no zone is managed."""

_INTERVAL = 0.1
_LONGEST = 3.0
_GRACE = 10.0
"""Seconds that an operation may go on after the user's interruption."""


class PendingError(ProviderError):
    """An operation that took too long, or that the user interrupted; it may still take effect."""

    def __init__(self, operation: str, id: str) -> None:
        """`id` is what the operation refers to."""
        super().__init__(f"{operation}: not done in time or interrupted; it may still take effect")
        self.id = id


class Api:
    """The API in one zone, or where the organization's own resources are managed."""

    def __init__(self, client: Client, timeout: float, cancelled: threading.Event) -> None:
        """`timeout` is the longest wait for an operation, in seconds."""
        self._client = client
        self._timeout = timeout
        self._cancelled = cancelled

    def call(self, operation: str, **arguments: Any) -> Json:
        """Call an operation by its name in the SDK. Raises `ProviderError`."""
        with _told():
            answer: Json = getattr(self._client, operation)(**arguments)
            return answer

    def find(self, operation: str, **arguments: Any) -> Json | None:
        """The same for a lookup; None where the API says that there is no such thing."""
        try:
            with _told():
                answer: Json = getattr(self._client, operation)(**arguments)
                return answer
        except _NotFoundError:
            return None

    def change(self, operation: str, **arguments: Any) -> str:
        """Call an asynchronous operation and wait for it; the id of what it refers to."""
        started = self.call(operation, **arguments)
        deadline, pause = time.monotonic() + self._timeout, _INTERVAL
        while started["state"] == "pending":
            if time.monotonic() > deadline:
                raise PendingError(operation, str(started["reference"]["id"]))
            if self._cancelled.is_set():
                # What is nearly done is better seen to its end than left behind.
                deadline = min(deadline, time.monotonic() + _GRACE)
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST)
            started = self.call("get_operation", id=started["id"])
        if started["state"] != "success":
            details = [started[name] for name in ("state", "reason", "message") if started.get(name)]
            raise ProviderError(f"{operation}: {', '.join(details)}")
        return str(started["reference"]["id"])

    def remove(self, operation: str, **arguments: Any) -> None:
        """Delete; what is already gone is as wanted."""
        try:
            self.change(operation, **arguments)
        except _NotFoundError:
            return


class Zones:
    """The credentials, and the API of each zone as `GET /zone` tells."""

    def __init__(self, key: str, secret: str, url: str, timeout: float) -> None:
        """Opens no connection."""
        self._connect = functools.partial(Client, key, secret)
        self._url = url
        self._timeout = timeout
        self._endpoints: dict[str, str] | None = None
        self._lock = threading.Lock()
        self._local = threading.local()

    def api(self, zone: str | None, cancelled: threading.Event, timeout: float = 0) -> Api:
        """The API of the zone, or the organization's. Raises `ProviderError` for an unknown zone."""
        timeout = timeout or self._timeout
        if zone is None:
            return Api(self._client(self._url), timeout, cancelled)
        with self._lock:
            if self._endpoints is None:
                zones = Api(self._client(self._url), timeout, cancelled).call("list_zones")["zones"]
                self._endpoints = {entry["name"]: entry["api-endpoint"] for entry in zones}
        if zone not in self._endpoints:
            raise ProviderError(f"zone {zone!r} not found: there are {', '.join(sorted(self._endpoints))}")
        return Api(self._client(self._endpoints[zone]), timeout, cancelled)

    def _client(self, url: str) -> Client:
        # A session of `requests` is not made for several threads: each has its own.
        clients: dict[str, Client] = self._local.__dict__.setdefault("clients", {})
        if url not in clients:
            clients[url] = self._connect(url=url)
        return clients[url]


class _NotFoundError(ProviderError):
    """HTTP 404."""


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except ExoscaleAPIException as error:
        status = None if error.response is None else error.response.status_code
        kind: Callable[[str], ProviderError] = _NotFoundError if status == 404 else ProviderError
        raise kind(f"Exoscale API: {_message(error)}") from None
    except requests.RequestException as error:
        raise ProviderError(
            f"Exoscale API not reached ({error}), so nothing was done; check the network and "
            "EXOSCALE_API_ENDPOINT."
        ) from None


def _message(error: ExoscaleAPIException) -> str:
    try:
        return f"{error.response.status_code} {error.response.json()['message']}"
    except (AttributeError, ValueError, KeyError, TypeError):
        return str(error)
