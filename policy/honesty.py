"""Honesty: a customer is told what its tier is and does, and nothing beyond (guide, "Honest Marketing")."""

import re
from collections.abc import Callable, Iterator, Mapping

from infra.tenants.tiers import NEVER_CLAIMED, TIERS
from policy.inputs import Path, UnsearchedError, texts, unknowns
from policy.rules import Selection, Severity, resources, rule, stack_rule
from policy.subjects import Resource, Stack
from policy.tenants import NAMESPACE, REGISTRATION, tenant_of, tier_name, tier_named, tier_of

_GUIDE = "guide, Honest Marketing"

_MACHINE = "kubernetes:kubevirt.io/v1:VirtualMachine"
_NETWORK_POLICY = "kubernetes:networking.k8s.io/v1:NetworkPolicy"
_NODE_POOL = "exoscale:index/sksNodepool:SksNodepool"
_CLUSTER = "exoscale:index/sksCluster:SksCluster"

_CLAIMS = {claim for tier in TIERS.values() for claim in tier.claims} | set(NEVER_CLAIMED)


def _spoken(text: str) -> str:
    """As it would be said: capitals, hyphens and spaces make no difference."""
    return " ".join(re.split(r"[\s_-]+", text.casefold().strip()))


_CANONICAL = {_spoken(claim): claim for claim in _CLAIMS}
_CLAIM = re.compile(
    "|".join(
        r"\b" + r"[\s_-]+".join(map(re.escape, spoken.split())) + r"\b"
        for spoken in sorted(_CANONICAL, key=len, reverse=True)
    ),
    re.IGNORECASE,
)
"""Every claim that the guide names, however it is written."""


def _claims_in(text: str) -> Iterator[str]:
    for match in _CLAIM.finditer(text):
        yield _CANONICAL[_spoken(match[0])]


@rule(
    id="honesty-never-claimed",
    severity=Severity.HIGH,
    on=resources(REGISTRATION),
    reason="no tier bears it out, and a lie about the architecture ends the deal",
    remedy="say what the tier does give (infra/tenants/tiers.py), in those words",
    source=_GUIDE,
)
def never_claimed(registered: Resource) -> Iterator[str]:
    """Nobody is told what no tier can claim."""
    for claim in registered.inputs.get("claims") or ():
        for found in _claims_in(claim):
            if found in NEVER_CLAIMED:
                yield f'"{claim}": {NEVER_CLAIMED[found]}'


@rule(
    id="honesty-claim-of-tier",
    severity=Severity.HIGH,
    on=resources(REGISTRATION),
    reason="the customer is told of what it does not get, and finds out in its own due diligence",
    remedy="claim what the tier's row in infra/tenants/tiers.py lists, or move the tenant to a tier that may",
    source=_GUIDE,
)
def claim_of_tier(registered: Resource) -> Iterator[str]:
    """A tenant's claims are those that its tier may make."""
    name = str(registered.inputs.get("tier"))
    tier = tier_named(name)
    for claim in registered.inputs.get("claims") or ():
        if tier and not tier.may_claim(claim):
            yield f'tier {name} may not claim "{claim}"'


@stack_rule(
    id="honesty-claim-borne-out",
    severity=Severity.HIGH,
    on=resources(REGISTRATION),
    reason="the tier's own words would be untrue of this tenant",
    remedy="declare the part that is missing; if the tier has it no more, take the claim out of its row",
    source=_GUIDE,
)
def claim_borne_out(registered: Resource, stack: Stack) -> Iterator[str]:
    """What a tier may claim, and what its tenant is told, is there: namespace, machine, nodes, zone."""
    tier = tier_of(registered, stack)
    said = {*(tier.claims if tier else ()), *(registered.inputs.get("claims") or ())}
    for part, claims in _BORNE_OUT_BY.items():
        told = sorted(claims.intersection(map(_spoken, said)))
        if told and (missing := part(registered, stack)):
            yield f'"{_CANONICAL[told[0]]}", but {missing}'


def _closed_namespace(registered: Resource, stack: Stack) -> str:
    if not any(stack.by(tenant_of, NAMESPACE)[tenant_of(registered)]):
        return "it has no namespace"
    policies = (each.inputs["spec"] for each in stack.by(tenant_of, _NETWORK_POLICY)[tenant_of(registered)])
    closed = any(
        not spec.get("podSelector")
        and {"Ingress", "Egress"} <= set(spec.get("policyTypes") or ())
        # What is let through is another policy's to say.
        and not spec.get("ingress")
        and not spec.get("egress")
        for spec in policies
    )
    return "" if closed else "its namespace is not closed by default, in both directions"


def _machine(registered: Resource, stack: Stack) -> str:
    return "" if any(stack.by(tenant_of, _MACHINE)[tenant_of(registered)]) else "it has no machine"


def _nodes(registered: Resource, stack: Stack) -> str:
    return "" if any(stack.by(tenant_of, _NODE_POOL)[tenant_of(registered)]) else "it has no nodes of its own"


def _in_switzerland(_registered: Resource, stack: Stack) -> str:
    zones = {str(each.inputs.get("zone")) for each in stack.of(_CLUSTER, _NODE_POOL)}
    abroad = sorted(zone for zone in zones if not zone.startswith("ch-"))
    return f"there are nodes in {', '.join(abroad)}" if abroad else ""


_BORNE_OUT_BY: Mapping[Callable[[Resource, Stack], str], frozenset[str]] = {
    part: frozenset(map(_spoken, claims))
    for part, claims in {
        _in_switzerland: ("Swiss-hosted infrastructure",),
        _closed_namespace: ("Enterprise-grade isolation", "Isolated Environment", "Dedicated Workspace"),
        _machine: (
            "Private Virtual Infrastructure",
            "Dedicated virtual infrastructure",
            "Private environment",
            "Isolated infrastructure",
        ),
        _nodes: ("Private cloud", "Single-tenant"),
    }.items()
}


@stack_rule(
    id="honesty-words",
    severity=Severity.MEDIUM,
    on=Selection(lambda _type: True, lambda resource: (resource,)),
    reason="names, labels and descriptions are read by customers, auditors and colleagues, who believe them",
    remedy="use the words of the tenant's own tier (infra/tenants/tiers.py)",
    source=_GUIDE,
)
def words(resource: Resource, stack: Stack) -> Iterator[str]:
    """No name, label, annotation or description promises more than the tenant's tier, or what no tier can."""
    tier = tier_of(resource, stack) if resource.tenant else None
    for told in (resource.name, *(text for path, text in texts(resource.inputs) if _is_told(path))):
        for claim in _claims_in(told):
            if claim in NEVER_CLAIMED:
                yield f'"{told}": {NEVER_CLAIMED[claim]}'
            elif tier and not tier.may_claim(claim):
                yield f'"{told}": tier {tier_name(resource, stack)} may not claim "{claim}"'
    for path in filter(_is_told, unknowns(resource.inputs)):
        raise UnsearchedError(path)


def _is_told(path: Path) -> bool:
    """Whether people read the field."""
    if path[0] != "metadata" or len(path) == 1:
        return path[0] in ("name", "description", "labels", "tags", "metadata")
    return path[1] in ("name", "labels", "annotations")
