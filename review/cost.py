"""What the platform costs in a month, in CHF, and whose part it is.

One model for every price set: the estate is metered into items, a set prices them, and what nobody bought for
himself is spread. Nodes go by sold units and the share of the month they are awake, disks by GiB, the rest by
head, what no tenant takes up included; so the parts add up to the bill.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from review.errors import ReviewError

PRICES = Path(__file__).with_name("prices.yaml")


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A node of one type."""

    cpu: int
    memory_gib: int
    month: Decimal


@dataclass(frozen=True, kw_only=True)
class Prices:
    """A named price set; amounts in CHF for a month."""

    instances: Mapping[str, Instance]
    items: Mapping[str, Decimal]
    hourly: frozenset[str]
    """Those of both that are paid by the hour."""
    unverified: tuple[str, ...]
    """What of it no source could confirm."""


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What a plan does not say."""

    awake: Decimal
    prefix_gib: Decimal
    volume_replicas: int


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Equal nodes; `owner` is the tenant that has them alone, or None."""

    owner: str | None
    instance_type: str
    nodes: int | Decimal
    """Their number, on average of the month."""
    disk_gib: int


@dataclass(frozen=True, kw_only=True)
class Consumer:
    """What a tenant takes up."""

    id: str
    cpu: int
    memory_gib: int
    awake: Decimal
    """The share of the month its own agent or machine runs."""
    volume_gib: Decimal
    """On node disks, every replica counted."""
    prefix_gib: Decimal
    own_nodes: bool = False
    load_balancers: int = 0
    there: Decimal = Decimal(1)
    """The share of the month for which there is such a tenant: of what all share, it has as much."""


@dataclass(frozen=True, kw_only=True)
class Estate:
    """Everything that is paid for."""

    pools: tuple[Pool, ...]
    consumers: tuple[Consumer, ...]
    load_balancers: int = 0
    """The platform's own."""
    control_plane: str = ""
    """SKS's service level."""


@dataclass(frozen=True, kw_only=True)
class Bill:
    """CHF in a month."""

    total: Decimal
    tenants: Mapping[str, Decimal]
    """Each one's part; together the total, unless there is no tenant."""
    own: Mapping[str, Decimal]
    """What of it the tenant causes itself; the rest is its part of what all share."""
    compute_used: Decimal
    """How much of the shared nodes is sold and awake; above 1 it does not fit."""


def load_prices(name: str, path: Path = PRICES, *, hours: Decimal | None = None) -> Prices:
    """Read a price set, for a month of so many `hours`, or for one of average length."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    chosen, sources = document["sets"][name], document["sources"]
    hours = hours or Decimal(str(chosen["hoursPerMonth"]))
    priced = {**chosen["instances"], **chosen["items"]}
    return Prices(
        instances={
            kind: Instance(cpu=item["cpu"], memory_gib=item["memoryGib"], month=_month(item, hours))
            for kind, item in chosen["instances"].items()
        },
        items={what: _month(item, hours) for what, item in chosen["items"].items()},
        hourly=frozenset(what for what, item in priced.items() if "hour" in item),
        unverified=tuple(what for what, item in priced.items() if not sources[item["source"]]["verified"]),
    )


def _month(item: Mapping[str, Any], hours: Decimal) -> Decimal:
    return Decimal(str(item["month"])) if "month" in item else Decimal(str(item["hour"])) * hours


def load_assumptions(path: Path = PRICES) -> Assumptions:
    """Read what is assumed where a plan says nothing."""
    assumed = yaml.safe_load(path.read_text(encoding="utf-8"))["assumptions"]
    return Assumptions(
        awake=Decimal(str(assumed["awake"])),
        prefix_gib=Decimal(str(assumed["prefixGib"])),
        volume_replicas=assumed["volumeReplicas"],
    )


def bill(estate: Estate, prices: Prices) -> Bill:
    """Price the estate.

    Raises:
        ReviewError: a node of the estate has no price.
    """
    shared = [pool for pool in estate.pools if pool.owner is None]
    cpu = sum(_instance(pool, prices).cpu * pool.nodes for pool in shared)
    memory = sum(_instance(pool, prices).memory_gib * pool.nodes for pool in shared)
    disk = Decimal(sum(pool.disk_gib * pool.nodes for pool in shared))
    compute_share = {
        consumer.id: consumer.awake * max(_part(consumer.cpu, cpu), _part(consumer.memory_gib, memory))
        for consumer in estate.consumers
        if not consumer.own_nodes
    }
    # A tenant's own nodes hold no volumes: Longhorn keeps all of them on the shared ones.
    disk_share = {consumer.id: _part(consumer.volume_gib, disk) for consumer in estate.consumers}
    compute_cost, disk_cost = _nodes(shared, prices), disk * prices.items.get("node disk GiB", Decimal())
    own = {
        consumer.id: _metered(consumer, estate, prices)
        + compute_cost * _fitted(compute_share, consumer.id)
        + disk_cost * _fitted(disk_share, consumer.id)
        for consumer in estate.consumers
    }
    total = (
        compute_cost
        + disk_cost
        + _of_all(estate, prices)
        + sum(_metered(consumer, estate, prices) for consumer in estate.consumers)
    )
    rest = total - sum(own.values())
    heads = sum((consumer.there for consumer in estate.consumers), Decimal())
    return Bill(
        total=total,
        tenants={
            consumer.id: own[consumer.id] + rest * _part(consumer.there, heads)
            for consumer in estate.consumers
        },
        own=own,
        compute_used=sum(compute_share.values(), Decimal()),
    )


def _part(quantity: int | Decimal, whole: int | Decimal) -> Decimal:
    return Decimal(quantity) / Decimal(whole) if whole else Decimal()


def _fitted(shares: Mapping[str, Decimal], name: str) -> Decimal:
    """A share of what there is: where more is taken up than there is, all shares give way alike."""
    return shares.get(name, Decimal()) / max(Decimal(1), sum(shares.values(), Decimal()))


def _instance(pool: Pool, prices: Prices) -> Instance:
    if pool.instance_type not in prices.instances:
        raise ReviewError(
            f"review/prices.yaml has no price for instance type {pool.instance_type!r}, so the bill would be "
            "too low; add it there with its source and date."
        )
    return prices.instances[pool.instance_type]


def _nodes(pools: Iterable[Pool], prices: Prices) -> Decimal:
    return sum((_instance(pool, prices).month * pool.nodes for pool in pools), Decimal())


def _metered(consumer: Consumer, estate: Estate, prices: Prices) -> Decimal:
    """What the tenant has to itself."""
    pools = [pool for pool in estate.pools if pool.owner == consumer.id]
    quantities = {
        "machine awake": consumer.awake,
        "workspace awake": consumer.awake,
        "workspace asleep": 1 - consumer.awake,
        "object storage GiB": consumer.prefix_gib,
        "load balancer": Decimal(consumer.load_balancers),
        "node disk GiB": Decimal(sum(pool.disk_gib * pool.nodes for pool in pools)),
    }
    priced = sum(prices.items.get(what, Decimal()) * quantity for what, quantity in quantities.items())
    return _nodes(pools, prices) + priced


_METERED = frozenset(
    ("machine awake", "workspace awake", "workspace asleep", "object storage GiB", "load balancer")
) | {"node disk GiB", "control plane pro", "control plane starter"}


def _of_all(estate: Estate, prices: Prices) -> Decimal:
    """What is bought for everybody; an item of the set that is not metered is paid once."""
    once = sum((price for what, price in prices.items.items() if what not in _METERED), Decimal())
    balancers = prices.items.get("load balancer", Decimal()) * estate.load_balancers
    return once + balancers + prices.items.get(f"control plane {estate.control_plane}", Decimal())
