"""The statement of a month: what each tenant cost, what it pays, and what both add up to."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from costs.estate import Configured
from costs.ledger import Hours, Used
from infra.platform import longhorn
from infra.tenants import node_pool
from infra.tenants.tiers import TIERS, Size, Tier
from review.cost import Bill, Consumer, Estate, Pool, Prices, bill

_GIB = Decimal(2**30)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A tenant's month; amounts in CHF."""

    tenant: str
    tier: str
    """The one that it had for longest."""
    awake_hours: Decimal
    workspace_gib: Decimal
    object_gib: Decimal
    database_gib: Decimal
    backup_gib: Decimal
    """GiB are what it had on average of the time that is counted."""
    received_bytes: int
    sent_bytes: int
    own: Decimal
    """The cost that it causes itself."""
    share: Decimal
    """Its part of what all share."""
    price: Decimal | None
    """By the list; None: a contract's, or without a rate."""

    @property
    def cost(self) -> Decimal:
        """Return what it cost."""
        return self.own + self.share

    @property
    def margin(self) -> Decimal | None:
        """Return what is left of its price."""
        return None if self.price is None else self.price - self.cost


@dataclass(frozen=True, kw_only=True)
class Metered:
    """The rented quantity of one item in the time that is counted."""

    item: str
    """As the price list calls it."""
    quantity: Decimal
    """Hours of a node or load balancer, hours of a GiB on disk, months of anything else."""
    amount: Decimal
    """CHF."""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A month."""

    hours: Hours
    lines: Sequence[Line]
    metered: Sequence[Metered]
    compute_used: Decimal
    """The part of the shared nodes that is sold and awake."""

    @property
    def cost(self) -> Decimal:
        """Return what is paid in all."""
        return sum((line.cost for line in self.lines), Decimal())

    @property
    def price(self) -> Decimal:
        """Return what the list prices add up to."""
        return sum((line.price or Decimal() for line in self.lines), Decimal())


def draw_up(hours: Hours, configured: Configured, prices: Prices) -> Statement:
    """Draw up the statement.

    Raises:
        ReviewError: a node has no price.
    """
    estate = _estate(hours, configured)
    found = bill(estate, prices)
    part = hours.seconds / 3600 / hours.month.hours
    groups: dict[str, list[tuple[str, Used]]] = defaultdict(list)
    for name, used in _named(hours):
        groups[used.tenant].append((name, used))
    return Statement(
        hours=hours,
        lines=[_line(group, hours, configured, found, part) for group in groups.values()],
        metered=_metered(hours, estate, prices, part),
        compute_used=found.compute_used,
    )


def _named(hours: Hours) -> list[tuple[str, Used]]:
    """Name each part of the ledger: a tenant whose tier or size changed has several."""
    return [(f"{used.tenant} {number}", used) for number, used in enumerate(hours.used)]


def _estate(hours: Hours, configured: Configured) -> Estate:
    cluster, whole = configured.cluster, hours.seconds
    shared = [
        Pool(owner=None, instance_type=pool.instance_type, nodes=pool.size, disk_gib=pool.disk_gib)
        for pool in cluster.node_pools
    ]
    replicas = min(longhorn.REPLICAS, max(1, sum(pool.size for pool in cluster.node_pools)))
    pools, consumers = list(shared), []
    for name, used in _named(hours):
        there = used.seconds / whole
        own_nodes = _has_nodes(used)
        if own_nodes:
            pools.append(
                Pool(
                    owner=name,
                    instance_type=node_pool.instance_type(
                        Size(used.cpu, used.memory_gib, used.workspace_gib)
                    ),
                    nodes=node_pool.NODES * there,
                    disk_gib=node_pool.DISK_GIB,
                )
            )
        consumers.append(
            Consumer(
                id=name,
                cpu=used.cpu,
                memory_gib=used.memory_gib,
                awake=used.awake_seconds / whole,
                volume_gib=used.workspace_gib * replicas * there,
                prefix_gib=(used.object_byte_seconds + used.backup_byte_seconds) / whole / _GIB,
                own_nodes=own_nodes,
                there=there,
            )
        )
    return Estate(
        pools=tuple(pools),
        consumers=tuple(consumers),
        load_balancers=configured.load_balancers,
        control_plane=cluster.service_level,
    )


def _tier(used: Used) -> Tier | None:
    """Return the tier; None: this release has none of that name."""
    return next((tier for name, tier in TIERS.items() if name == used.tier), None)


def _has_nodes(used: Used) -> bool:
    tier = _tier(used)
    return tier is not None and tier.node_pool


def _line(
    group: Sequence[tuple[str, Used]], hours: Hours, configured: Configured, found: Bill, part: Decimal
) -> Line:
    parts = [used for _, used in group]
    longest = max(parts, key=lambda used: used.seconds)
    own = sum((found.own[name] for name, _ in group), Decimal()) * part
    cost = sum((found.tenants[name] for name, _ in group), Decimal()) * part

    def average(amounts: Sequence[Decimal]) -> Decimal:
        return sum(amounts, Decimal()) / hours.seconds

    return Line(
        tenant=longest.tenant,
        tier=longest.tier,
        awake_hours=sum((used.awake_seconds for used in parts), Decimal()) / 3600,
        workspace_gib=average([used.workspace_gib * used.seconds for used in parts]),
        object_gib=average([used.object_byte_seconds for used in parts]) / _GIB,
        database_gib=average([used.database_byte_seconds for used in parts]) / _GIB,
        backup_gib=average([used.backup_byte_seconds for used in parts]) / _GIB,
        received_bytes=sum(used.received_bytes for used in parts),
        sent_bytes=sum(used.sent_bytes for used in parts),
        own=own,
        share=cost - own,
        price=_price(parts, hours, configured.chf_per_usd),
    )


def _price(parts: Sequence[Used], hours: Hours, chf_per_usd: Decimal | None) -> Decimal | None:
    """Return the list price for the time that the tenant was there."""
    if chf_per_usd is None:
        return None
    total = Decimal()
    for used in parts:
        tier = _tier(used)
        if tier is None or tier.monthly_usd is None:
            return None
        total += tier.monthly_usd * chf_per_usd * used.seconds / 3600 / hours.month.hours
    return total


def _metered(hours: Hours, estate: Estate, prices: Prices, part: Decimal) -> list[Metered]:
    """Return what is rented, by the price list's items."""
    counted, month = hours.seconds / 3600, hours.month.hours
    quantities: dict[str, Decimal] = defaultdict(Decimal)
    for pool in estate.pools:
        quantities[pool.instance_type] += pool.nodes * counted
        quantities["node disk GiB"] += pool.nodes * pool.disk_gib * counted
    balancers = estate.load_balancers + sum(consumer.load_balancers for consumer in estate.consumers)
    quantities["load balancer"] += balancers * counted
    quantities["object storage GiB"] += part * sum(
        (consumer.prefix_gib for consumer in estate.consumers), Decimal()
    )
    quantities[f"control plane {estate.control_plane}"] += part
    return [
        Metered(item=item, quantity=quantity, amount=quantity * price(prices, item, month))
        for item, quantity in quantities.items()
        if item in prices.instances or item in prices.items
    ]


def price(prices: Prices, item: str, month_hours: Decimal) -> Decimal:
    """Return the price in CHF of an hour of what is paid by the hour, of a month of anything else."""
    monthly = prices.instances[item].month if item in prices.instances else prices.items[item]
    return monthly / month_hours if item in prices.hourly else monthly


def by_tier(lines: Sequence[Line]) -> Mapping[str, Sequence[Line]]:
    """Group lines by tier, in the order of the tiers."""
    found: dict[str, list[Line]] = {name: [] for name in TIERS}
    for line in lines:
        found.setdefault(line.tier, []).append(line)
    return {tier: group for tier, group in found.items() if group}
