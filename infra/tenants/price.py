"""What a tenant's own parts cost by list prices: what the operators' page counts with.

An estimate while the month runs. The bill, with what all share and what nobody has bought, is the review's
(docs/decisions/0044); both meter nodes by the larger of CPU and memory, and disks with every replica.
"""

from collections.abc import Mapping
from decimal import Decimal

from infra.platform import longhorn
from infra.tenants import node_pool
from infra.tenants.roster import TenantEntry

_HOURS = 730
"""In a month: a twelfth of a year."""
_UNIT_GIB = 4
"""Exoscale's standard types have 4 GiB of memory for a CPU."""


def list_price(tenant: TenantEntry, prices: Mapping[str, float | None]) -> float | None:
    """Return what the tenant pays a month by the list, in CHF; None for a contract, or without a rate.

    Args:
        tenant: whose tier has a price in USD.
        prices: `chf_per_usd`.
    """
    rate, usd = prices["chf_per_usd"], tenant.parts.monthly_usd
    return None if rate is None or usd is None else round(usd * rate, 2)


def price(tenant: TenantEntry, prices: Mapping[str, float | None]) -> dict[str, float]:
    """Return `awakeHourChf`, for each hour that its machine runs, and `monthChf`, for each month, in CHF.

    Args:
        tenant: one that has parts of its own.
        prices: with `unit_hour` and `disk_gib_hour`, in CHF an hour.
    """
    unit, gib = (Decimal(str(prices[name])) for name in ("unit_hour", "disk_gib_hour"))
    compute = _units(tenant.size.cpu, tenant.size.memory_gib) * unit
    awake, always = Decimal(), Decimal()
    if tenant.has_workspace:
        # On the nodes of all, wherever its machine runs.
        always += tenant.size.workspace_gib * longhorn.REPLICAS * gib
    if tenant.parts.node_pool:
        # Its own whether it sleeps or not.
        cpu, memory_gib = node_pool.capacity(tenant.size)
        always += node_pool.NODES * (_units(cpu, memory_gib) * unit + node_pool.DISK_GIB * gib)
    elif tenant.parts.machine:
        awake = compute
    elif tenant.parts.dedicated_agent and tenant.state == "active":
        always += compute
    return {"awakeHourChf": float(round(awake, 5)), "monthChf": float(round(always * _HOURS, 2))}


def _units(cpu: int, memory_gib: int) -> Decimal:
    return max(Decimal(cpu), Decimal(memory_gib) / _UNIT_GIB)
