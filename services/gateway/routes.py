"""Where each tenant's requests go: one ConfigMap per tenant, declared by the program, followed by a watch."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwt import InvalidKeyError, PyJWKError
from jwt.algorithms import OKPAlgorithm
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from services.kube import Api, ApiError, Object, Watched

log = logging.getLogger(__name__)

LABEL = "agent-platform/route"
_FILE = "route.json"
_MOST_CHF = 1_000_000

ServedBy = Literal["machine", "deployment", "shared runtime"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class RouteError(ValueError):
    """A ConfigMap is no route; says why."""


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, alias_generator=to_camel
    )


class Size(_Strict):
    """What the tenant bought."""

    cpu: float = Field(gt=0)
    memory_gib: float = Field(gt=0)
    workspace_gib: float = Field(ge=0)


class Price(_Strict):
    """What its operation costs, in CHF: per hour awake, and per month whether awake or not."""

    awake_hour_chf: float = Field(ge=0, le=_MOST_CHF)
    month_chf: float = Field(ge=0, le=_MOST_CHF)


class _Key(_Strict):
    """A public Ed25519 key as a JWK (RFC 8037); a private one has a field too many and is refused."""

    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    kid: str = Field(min_length=1, max_length=100)
    x: str = Field(pattern=r"^[A-Za-z0-9_-]{43}$")
    use: Literal["sig"] | None = None
    alg: Literal["EdDSA"] | None = None


class _Keys(_Strict):
    keys: list[_Key] = Field(min_length=1, max_length=10)


class _Declared(_Strict):
    tenant: str = Field(pattern=r"^[a-z][a-z0-9]{2,30}$")
    tier: Name
    state: Literal["active", "suspended", "moving", "offboarding"]
    served_by: ServedBy
    namespace: Name
    idle_seconds: int | None = Field(default=None, gt=0)
    keys: _Keys
    size: Size | None = None
    price: Price | None = None


@dataclass(frozen=True, kw_only=True)
class Route:
    """A tenant as the gateway knows it."""

    tenant: str
    tier: str
    state: Literal["active", "suspended", "moving", "offboarding"]
    served_by: ServedBy
    namespace: str
    idle_seconds: int | None
    """None: it has no machine that could sleep."""
    keys: Mapping[str, Ed25519PublicKey]
    """By key id: what the tenant's tokens are verified with."""
    size: Size | None = None
    price: Price | None = None


def public_keys(jwks: Any) -> dict[str, Ed25519PublicKey]:
    """Return the keys of a JWK set by their ids. Raises `RouteError` unless all are public Ed25519 keys."""
    try:
        return _loaded(_Keys.model_validate(jwks))
    except ValidationError as error:
        raise RouteError(_brief(error)) from None


def parse(config_map: Object) -> Route:
    """Return the route in a ConfigMap. Raises `RouteError`."""
    metadata = config_map["metadata"]
    text = (config_map.get("data") or {}).get(_FILE)
    if text is None:
        raise RouteError(f"it has no {_FILE}")
    try:
        declared = _Declared.model_validate(json.loads(text))
    except ValidationError as error:
        raise RouteError(_brief(error)) from None
    except (ValueError, RecursionError) as error:
        raise RouteError(f"{_FILE} is no JSON: {error}") from None
    tenant = declared.tenant
    if metadata["name"] != _name(tenant) or (metadata.get("labels") or {}).get(LABEL) != tenant:
        # Or one tenant's ConfigMap could take over another tenant's host.
        raise RouteError(f"it names the tenant {tenant}, and neither its own name nor label may name another")
    fields = {name: getattr(declared, name) for name in _Declared.model_fields}
    return Route(**fields | {"keys": _loaded(declared.keys)})


class Routes:
    """The routes of all tenants. A bad one is told once and keeps its tenant out, and nobody else."""

    def __init__(self, api: Api, namespace: str) -> None:
        """Follow the ConfigMaps of `namespace`."""
        self._api = api
        self._namespace = namespace
        self._path = f"/api/v1/namespaces/{namespace}/configmaps"
        self._told: dict[str, str] = {}
        self._watched = Watched(api, self._path, self._read, selector=LABEL)
        self.synced = self._watched.synced

    @property
    def silence(self) -> float:
        """Return for how many seconds nothing has been heard of routes."""
        return self._watched.silence

    def find(self, tenant: str) -> Route | None:
        """Return the route of `tenant`, None if there is no such tenant."""
        return self._watched.get((self._namespace, _name(tenant)))

    async def latest(self, tenant: str) -> Route | None:
        """Return the route of `tenant` by the API server's word, not a watch's; None if there is none.

        Raises `ApiError` or one of `UNREACHABLE`.
        """
        try:
            return self._read(await self._api.request("GET", f"{self._path}/{_name(tenant)}"))
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def all(self) -> list[Route]:
        """Return all routes, by tenant."""
        found = (route for _, route in self._watched.items() if route is not None)
        return sorted(found, key=lambda route: route.tenant)

    async def follow(self) -> None:
        """Stay in step until cancelled."""
        await self._watched.follow()

    def _read(self, config_map: Object) -> Route | None:
        name = config_map["metadata"]["name"]
        try:
            route = parse(config_map)
        except RouteError as error:
            if self._told.get(name) != str(error):
                self._told[name] = str(error)
                log.error(
                    "ConfigMap %s/%s is no route: %s; its tenant is unreachable until it is declared anew",
                    self._namespace,
                    name,
                    error,
                )
            return None
        self._told.pop(name, None)
        return route


def _name(tenant: str) -> str:
    return f"route-{tenant}"


def _loaded(keys: _Keys) -> dict[str, Ed25519PublicKey]:
    loaded: dict[str, Ed25519PublicKey] = {}
    for key in keys.keys:
        try:
            public = OKPAlgorithm.from_jwk(key.model_dump(exclude_none=True))
        except (InvalidKeyError, PyJWKError, ValueError) as error:
            raise RouteError(f"key {key.kid}: {error}") from None
        if not isinstance(public, Ed25519PublicKey):
            raise RouteError(f"key {key.kid} is no public Ed25519 key")
        if key.kid in loaded:
            raise RouteError(f"two keys have the id {key.kid}")
        loaded[key.kid] = public
    return loaded


def _brief(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'all'}: {item['msg']}" for item in found[:3])
