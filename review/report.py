"""The review itself, as data: what `review.json` holds and the comment is written from."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from review import approvals, changes, cost, estate, isolation
from review.approvals import Affected, Approval
from review.changes import Change, Changes
from review.cost import Bill
from review.isolation import Circle, Move
from review.model import Finding, Plan, TenantFacts


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What was compared."""

    base: str
    """As it was asked for."""
    base_commit: str
    head_commit: str
    stack: str
    from_state: bool
    """The plans start from what runs; else from nothing."""
    paths: tuple[str, ...]
    """The files that differ."""


@dataclass(frozen=True, kw_only=True)
class TenantReview:
    """What happens to one tenant."""

    id: str
    name: str
    fate: str
    """added, removed, moved, offboarding, suspended, moving or changed."""
    detail: str
    counts: Mapping[str, int]
    changes: tuple[Change, ...]
    moves: tuple[Move, ...]
    cost_before: Decimal
    cost_after: Decimal


@dataclass(frozen=True, kw_only=True)
class Cost:
    """CHF in a month, of all."""

    before: Decimal
    after: Decimal
    others_before: Decimal
    """The part of those tenants that the change does not name."""
    others_after: Decimal
    others: int
    compute_used_before: Decimal
    compute_used_after: Decimal
    unverified: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Review:
    """Everything a reviewer is told."""

    scope: Scope
    problems: tuple[str, ...]
    """Why it must not be merged; empty where it may."""
    tenants: tuple[TenantReview, ...]
    cluster: tuple[Change, ...]
    platform: tuple[Change, ...]
    losses: tuple[Change, ...]
    pending: tuple[Change, ...]
    settled: tuple[Change, ...]
    running: tuple[Change, ...]
    cost: Cost | None
    circles: tuple[Circle, ...]
    findings: tuple[Finding, ...]
    approvals: tuple[Approval, ...]

    def as_data(self) -> dict[str, Any]:
        """For `review.json`: amounts in CHF, rounded to the centime."""
        plain: dict[str, Any] = _plain(asdict(self))
        return {"passes": not self.problems, **plain}


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(round(value, 2))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def failed(scope: Scope, problem: str) -> Review:
    """The review of what could not be planned: one message, and nothing that would be half of the truth."""
    return Review(
        scope=scope,
        problems=(problem,),
        tenants=(),
        cluster=(),
        platform=(),
        losses=(),
        pending=(),
        settled=(),
        running=(),
        cost=None,
        circles=(),
        findings=(),
        approvals=(),
    )


def review(scope: Scope, base: Plan, head: Plan) -> Review:
    """Set two plans against each other.

    Raises:
        ReviewError: a node of the estate has no price.
    """
    compared = changes.compare(base, head, from_state=scope.from_state)
    before, after = _by_id(base.tenants), _by_id(head.tenants)
    prices, assumed = cost.load_prices("exoscale"), cost.load_assumptions()
    old_bill = cost.bill(estate.estate(base, assumed), prices)
    new_bill = cost.bill(estate.estate(head, assumed), prices)
    shares_before, shares_after = isolation.sharing(base.tenants), isolation.sharing(head.tenants)
    tenants = tuple(
        TenantReview(
            id=name,
            name=(after.get(name) or before[name]).name,
            fate=fate,
            detail=_detail(before.get(name), after.get(name)),
            counts=dict(Counter(change.operation for change in own)),
            changes=own,
            moves=isolation.moves(shares_before, shares_after, name),
            cost_before=old_bill.tenants.get(name, Decimal()),
            cost_after=new_bill.tenants.get(name, Decimal()),
        )
        for name in dict.fromkeys([*before, *after])
        for own in [
            tuple(change for change in compared.made if (change.kind, change.owner) == ("tenant", name))
        ]
        for fate in [_fate(before.get(name), after.get(name), own)]
        if fate
    )
    weaker = [tenant.id for tenant in tenants if any(move.weaker for move in tenant.moves)]
    affected = [
        Affected(id=tenant.id, owner=(after.get(tenant.id) or before[tenant.id]).owner, fate=tenant.fate)
        for tenant in tenants
    ]
    return Review(
        scope=scope,
        problems=tuple(_problems(head)),
        tenants=tenants,
        cluster=_of(compared, changes.CLUSTER),
        platform=_of(compared, changes.PLATFORM),
        losses=compared.losses,
        pending=compared.pending,
        settled=compared.settled,
        running=compared.running,
        cost=_cost(old_bill, new_bill, {tenant.id for tenant in tenants}, prices),
        circles=isolation.circles(base.tenants, head.tenants),
        findings=head.findings,
        approvals=approvals.approvals(compared, affected, weaker, scope.paths),
    )


def _by_id(tenants: Iterable[TenantFacts]) -> dict[str, TenantFacts]:
    return {tenant.id: tenant for tenant in tenants}


def _of(compared: Changes, owner: str) -> tuple[Change, ...]:
    return tuple(change for change in compared.made if (change.kind, change.owner) == ("shared", owner))


def _fate(before: TenantFacts | None, after: TenantFacts | None, own: tuple[Change, ...]) -> str:
    if before is None or after is None:
        return "added" if after else "removed"
    if before.tier != after.tier:
        return "moved"
    if before.state != after.state:
        return after.state if after.state != "active" else "changed"
    return "changed" if own or before != after else ""


def _detail(before: TenantFacts | None, after: TenantFacts | None) -> str:
    """The difference in the roster, in a few words; of a tenant that comes or goes, what it has."""
    if before is None or after is None:
        known = after or before
        assert known is not None, "a tenant stands in one of the two rosters"  # noqa: S101
        return _holding(known)
    told = [
        f"{what} {old} → {new}"
        for what, old, new in (
            ("tier", before.tier, after.tier),
            ("state", before.state, after.state),
            ("CPU", before.cpu, after.cpu),
            ("memory GiB", before.memory_gib, after.memory_gib),
            ("workspace GiB", before.workspace_gib, after.workspace_gib),
            ("VPN", _yes(before.vpn), _yes(after.vpn)),
            ("own database", _yes(before.own_database), _yes(after.own_database)),
        )
        if old != new
    ]
    if after.discard:
        told.append(f"discards {', '.join(after.discard)}")
    return ", ".join(told) or "only its resources"


def _holding(tenant: TenantFacts) -> str:
    """Tier and sizes, as far as the tier has any, and what was added to it."""
    parts = [
        tenant.tier,
        f"{tenant.cpu} CPU" if tenant.cpu else "",
        f"{tenant.memory_gib} GiB memory" if tenant.memory_gib else "",
        f"{tenant.workspace_gib} GiB workspace" if tenant.workspace_gib else "",
        "VPN" if tenant.vpn else "",
        "own database" if tenant.own_database else "",
        tenant.state if tenant.state != "active" else "",
    ]
    return ", ".join(filter(None, parts))


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _problems(head: Plan) -> Iterable[str]:
    for tenant in head.tenants:
        for claim in tenant.overclaims:
            yield (
                f'{tenant.id}: the claim "{claim}" is more than tier {tenant.tier} delivers, so the customer '
                "would be told what is not true; remove the claim, or move the tenant to a tier that allows "
                "it (infra/tenants/tiers.py)"
            )
    mandatory = Counter(finding.policy for finding in head.findings if finding.level == "mandatory")
    for policy, count in mandatory.items():
        yield f"policy {policy} is violated ({count} {'time' if count == 1 else 'times'}); see the findings"


def _cost(before: Bill, after: Bill, named: set[str], prices: cost.Prices) -> Cost:
    def rest(bill: Bill) -> Decimal:
        return sum((part for name, part in bill.tenants.items() if name not in named), Decimal())

    return Cost(
        before=before.total,
        after=after.total,
        others_before=rest(before),
        others_after=rest(after),
        others=len(after.tenants.keys() - named),
        compute_used_before=before.compute_used,
        compute_used_after=after.compute_used,
        unverified=prices.unverified,
    )
