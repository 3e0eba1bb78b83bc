"""What a tenant shares, and with whom.

Of every tier, and so not repeated for each tenant: Vault, object storage and Redis are shared by path, prefix
and access rules; the cluster's control plane, and the hardware below it, by everybody.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from review.model import TenantFacts


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Something that a tenant has to itself or shares."""

    name: str
    own: Callable[[TenantFacts], str]
    """What it has to itself; empty where it shares."""
    shared: str
    """What those without one share."""


LAYERS = (
    Layer(
        name="agents",
        own=lambda tenant: "" if tenant.shared_runtime else _agents(tenant),
        shared="the shared runtime",
    ),
    Layer(
        name="kernel",
        own=lambda tenant: "its machine's" if tenant.machine else "",
        shared="the nodes' kernels",
    ),
    Layer(
        name="nodes",
        own=lambda tenant: "its node pool" if tenant.node_pool else "",
        shared="the shared nodes",
    ),
    Layer(
        name="namespace and network",
        own=lambda tenant: f"namespace tenant-{tenant.id}" if tenant.namespace else "",
        shared="namespace runtime",
    ),
    Layer(
        name="database servers",
        own=lambda tenant: "its PostgreSQL" if tenant.own_database else "",
        shared="the shared PostgreSQL, a schema each",
    ),
    Layer(
        name="workspace",
        own=lambda tenant: _volume(tenant) if tenant.machine else "",
        shared="the shared bucket, a prefix each",
    ),
    Layer(
        name="way in from outside",
        own=lambda tenant: "its VPN" if tenant.vpn else "",
        shared="the shared gateway",
    ),
)


def _agents(tenant: TenantFacts) -> str:
    return "its machine" if tenant.machine else "its Deployment"


def _volume(tenant: TenantFacts) -> str:
    return "its volume, under a key of its own" if tenant.encrypted_workspace else "its volume"


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """One layer of one tenant."""

    layer: str
    what: str
    own: bool
    others: tuple[str, ...]
    """Whom it shares with."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """One layer of one tenant, before and after."""

    layer: str
    before: Sharing | None
    after: Sharing | None

    @property
    def weaker(self) -> bool:
        """Whether it now shares what it had to itself."""
        return bool(self.before and self.after and self.before.own and not self.after.own)


@dataclass(frozen=True, kw_only=True)
class Circle:
    """Those who share one layer, before and after."""

    layer: str
    what: str
    before: int
    after: int
    joined: tuple[str, ...]
    left: tuple[str, ...]


def sharing(tenants: Iterable[TenantFacts]) -> dict[str, dict[str, Sharing]]:
    """For each tenant, each layer."""
    known = tuple(tenants)
    result: dict[str, dict[str, Sharing]] = {tenant.id: {} for tenant in known}
    for layer in LAYERS:
        circle = _circle(layer, known)
        for tenant in known:
            own = layer.own(tenant)
            others = () if own else tuple(name for name in circle if name != tenant.id)
            result[tenant.id][layer.name] = Sharing(
                layer=layer.name, what=own or layer.shared, own=bool(own), others=others
            )
    return result


def _circle(layer: Layer, tenants: Iterable[TenantFacts]) -> tuple[str, ...]:
    return tuple(sorted(tenant.id for tenant in tenants if not layer.own(tenant)))


def moves(
    before: Mapping[str, Mapping[str, Sharing]], after: Mapping[str, Mapping[str, Sharing]], tenant: str
) -> tuple[Move, ...]:
    """The layers in which a tenant's own situation changes; that its circle grows is told by `circles`."""
    old, new = before.get(tenant, {}), after.get(tenant, {})
    pairs = ((layer.name, old.get(layer.name), new.get(layer.name)) for layer in LAYERS)
    return tuple(
        Move(layer=name, before=was, after=now)
        for name, was, now in pairs
        if (was and was.what, bool(was)) != (now and now.what, bool(now))
    )


def circles(before: Iterable[TenantFacts], after: Iterable[TenantFacts]) -> tuple[Circle, ...]:
    """The layers that somebody begins or ceases to share."""
    old, new = tuple(before), tuple(after)
    found = []
    for layer in LAYERS:
        was, now = _circle(layer, old), _circle(layer, new)
        if was != now:
            found.append(
                Circle(
                    layer=layer.name,
                    what=layer.shared,
                    before=len(was),
                    after=len(now),
                    joined=tuple(sorted(set(now) - set(was))),
                    left=tuple(sorted(set(was) - set(now))),
                )
            )
    return tuple(found)
