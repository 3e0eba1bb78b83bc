"""Requests to the Vault server, and what several types share."""

import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import hvac  # type: ignore[import-untyped]
import requests
from hvac.exceptions import InvalidPath, InvalidRequest, VaultError  # type: ignore[import-untyped]
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from local.providers.bridged import Bridged, set_order, snake
from local.providers.provider import Call, ProviderError
from local.providers.schema import Schema
from local.providers.values import Properties

PACKAGE = Schema("pulumi_vault")
_TIMEOUT = 60
_UPGRADING = "Upgrading from non-versioned to versioned data"
"""What a new KV v2 mount answers for a moment."""

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The provider's configuration, with defaults filled in."""

    address: str
    token: str
    token_name: str
    namespace: str | None
    ca: str | None
    """A file or a folder."""
    server_name: str | None
    """In the server's certificate, where that is not its address."""
    skip_tls_verify: bool
    skip_child_token: bool
    max_lease_ttl: int
    max_retries: int


class Vault:
    """The server that the provider's configuration names; entered at the first request."""

    settings: Settings

    def __init__(self) -> None:
        """Connect to nothing yet."""
        self._entering = threading.Lock()
        self._token: str | None = None
        self._threads = threading.local()

    def read(self, path: str, failing: str) -> Properties | None:
        """What is at the path; None when nothing is. `failing` says what could not be done."""
        try:
            answer = self._answer(failing, lambda client: client.adapter.get(f"/v1/{path}"))
        except _NotFoundError as error:
            return error.data
        return dict(answer["data"])

    def write(self, path: str, data: Properties, failing: str) -> Properties:
        """Write to the path; the answer's data."""
        answer = self._answer(failing, lambda client: client.write_data(path, data=data))
        return answer.get("data") or {} if isinstance(answer, dict) else {}

    def write_when_ready(self, call: Call, path: str, data: Properties, failing: str) -> None:
        """Write to a KV v2 mount, which may still be setting itself up."""
        for _ in range(60):
            try:
                self.write(path, data, failing)
            except ProviderError as error:
                if _UPGRADING not in str(error) or call.cancelled.wait(0.5):
                    raise
            else:
                return
        raise ProviderError(f"{failing}: the mount is still setting itself up after 30 seconds")

    def delete(self, path: str, failing: str) -> None:
        """Delete what is at the path, if anything."""
        try:
            self._answer(failing, lambda client: client.delete(path))
        except _NotFoundError:
            return

    def _answer(self, failing: str, request: Callable[[hvac.Client], _T]) -> _T:
        client = self._client()
        return self._refusals(failing, lambda: request(client))

    def _refusals(self, failing: str, request: Callable[[], _T]) -> _T:
        try:
            return request()
        except (InvalidPath, InvalidRequest) as error:
            if isinstance(error, InvalidPath) or any(_is_no_mount(text) for text in error.errors or ()):
                raise _NotFoundError(f"{failing}: {_told(error)}", (error.json or {}).get("data")) from None
            raise ProviderError(f"{failing}: {_told(error)}") from None
        except VaultError as error:
            raise ProviderError(f"{failing}: {_told(error)}") from None
        except requests.RequestException as error:
            raise ProviderError(
                f"{failing}: no answer from Vault at {self.settings.address} ({_cause(error)}); "
                "is it running, and is the address right?"
            ) from None

    def _client(self) -> hvac.Client:
        """A client for this thread: the library's cannot be shared."""
        if self._token is None:
            with self._entering:
                if self._token is None:
                    self._token = self._enter()
        client: hvac.Client | None = getattr(self._threads, "client", None)
        if client is None:
            client = self._threads.client = self._connected(self._token)
        return client

    def _enter(self) -> str:
        """The token to work with: a child of the given one that ends by itself, unless that is not wanted."""
        settings = self.settings
        if not settings.address:
            raise ProviderError("failed to configure Vault address: set `address` or VAULT_ADDR")
        if not settings.token:
            raise ProviderError("no vault token set on Client: set `token` or VAULT_TOKEN")
        client = self._connected(settings.token)
        self._refusals("failed to lookup token", lambda: client.auth.token.lookup_self())
        if settings.skip_child_token:
            return settings.token
        ttl = f"{settings.max_lease_ttl}s"
        request = {
            "display_name": settings.token_name,
            "ttl": ttl,
            "explicit_max_ttl": ttl,
            "renewable": False,
        }
        failing = "failed to create limited child token"
        answer = self._refusals(failing, lambda: client.write_data("auth/token/create", data=request))
        return str(answer["auth"]["client_token"])

    def _connected(self, token: str) -> hvac.Client:
        settings = self.settings
        session = requests.Session()
        session.mount(settings.address, _Transport(settings))
        return hvac.Client(
            url=settings.address,
            token=token,
            namespace=settings.namespace,
            verify=not settings.skip_tls_verify and (settings.ca or True),
            timeout=_TIMEOUT,
            session=session,
        )


class _NotFoundError(ProviderError):
    """Nothing is at the path, or nothing is mounted there."""

    def __init__(self, message: str, data: Properties | None) -> None:
        super().__init__(message)
        self.data = data
        """What Vault says of it still: when a secret's version was deleted, for example."""


class _Transport(HTTPAdapter):
    """Tries again while the server is away for a moment; may check the certificate for another name."""

    def __init__(self, settings: Settings) -> None:
        self._server_name = settings.server_name
        statuses = (412, 500, 502, 503, 504)
        super().__init__(
            max_retries=Retry(
                total=settings.max_retries,
                backoff_factor=0.5,
                status_forcelist=statuses,
                allowed_methods=None,
                raise_on_status=False,
            )
        )

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        if self._server_name:
            options |= {"server_hostname": self._server_name, "assert_hostname": self._server_name}
        super().init_poolmanager(*arguments, **options)


def _is_no_mount(text: str) -> bool:
    return "No secret engine mount at" in text or "No auth engine at" in text


def _told(error: VaultError) -> str:
    errors = "; ".join(" ".join(str(text).split()) for text in error.errors or [error])
    return f"Error making API request. URL: {str(error.method).upper()} {error.url}. Errors: {errors}"


def _cause(error: BaseException) -> str:
    """The innermost reason, without the addresses of Python objects around it."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    reason = getattr(error, "reason", None)
    return _cause(reason) if isinstance(reason, BaseException) else str(error).rpartition(": ")[2]


def seconds(duration: str) -> int:
    """`1h2m3s` in seconds."""
    factors = {"h": 3600, "m": 60, "s": 1}
    return sum(int(number) * factors[unit] for number, unit in re.findall(r"(\d+)([hms])", duration))


def short(number: int) -> str:
    """Seconds as `1h2m3s`, without what is zero at the end."""
    minutes, rest = divmod(number, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s" if minutes else f"{rest}s"
    text = text.removesuffix("0s") if text.endswith("m0s") else text
    return text.removesuffix("0m") if text.endswith("h0m") else text


class VaultResource(Bridged):
    """A type of this plugin."""

    package = PACKAGE

    def __init__(self, vault: Vault) -> None:
        """The server is configured later."""
        super().__init__()
        self.vault = vault


def written(inputs: Properties, names: Iterable[str]) -> Properties:
    """Those of the named inputs that say something, under Vault's names."""
    return {snake(name): inputs[name] for name in names if inputs.get(name)}


def changed(old: Properties, new: Properties, names: Iterable[str], empty: Any = None) -> Properties:
    """Those of the named inputs that differ, under Vault's names; `empty` for one that is gone."""
    return {
        snake(name): new.get(name, empty)
        for name in names
        if (old.get(name) or None) != (new.get(name) or None)
    }


def told(data: Properties, names: Iterable[str], *, sets: Iterable[str] = ()) -> Properties:
    """Vault's answer under the properties' names."""
    values = {name: data.get(snake(name)) for name in names}
    return values | {name: set_order(values[name] or ()) for name in sets if name in values}


def bare(path: str) -> str:
    """A mount's path, without slashes around it."""
    return path.strip("/")


def between(path: str, before: str, after: str) -> str:
    """The part of a path between two others."""
    inner = path.removeprefix(before).partition(after)[0]
    if not path.startswith(before) or after not in path or not inner:
        raise ProviderError(f'invalid path "{path}": expected {before}…{after}')
    return inner


def network(address: str, known: set[str]) -> str:
    """Vault leaves the prefix of a single address out; it stays out only where that was written."""
    if "/" in address or address in known:
        return address
    return f"{address}/{128 if ':' in address else 32}"
