"""What the program says of its tenants: the one place from which rules learn a tenant's tier and state.

Labels say it too, but a label that is wrong must not lower the bar that its object is judged by.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from infra.tenants.tiers import TIERS, Tier
from policy.rules import Selection
from policy.subjects import Groups, Resource, Stack

REGISTRATION = "pulumi-python:dynamic/agent-platform:Registration"
"""The first resource of a tenant; its inputs say which tenant it is, its tier, state and claims."""

NAMESPACE = "kubernetes:core/v1:Namespace"


def registrations(stack: Stack) -> Groups:
    """All registrations, by the tenant that they stand below."""
    return stack.by(tenant_of, REGISTRATION)


def registration(resource: Resource, stack: Stack) -> Mapping[str, Any]:
    """What was registered of a resource's tenant; empty if nothing was, which `tenancy-registered` tells."""
    found = next(registrations(stack)[tenant_of(resource)], None)
    return found.inputs if found else {}


def tier_name(resource: Resource, stack: Stack) -> str:
    """The name of the tier that a resource's tenant is of; empty if there is none."""
    return str(registration(resource, stack).get("tier") or "")


def tier_of(resource: Resource, stack: Stack) -> Tier | None:
    """The tier that a resource's tenant is of; None if there is none of that name."""
    return tier_named(tier_name(resource, stack))


def tier_named(name: str) -> Tier | None:
    """The tier of that name; None if there is none."""
    return next((tier for known, tier in TIERS.items() if known == name), None)


def tenants_resources(*types: str) -> Selection:
    """Each resource of one of `types` that belongs to a tenant."""
    return Selection(frozenset(types).__contains__, _of_a_tenant)


tenants_objects = Selection(lambda type_: type_.startswith("kubernetes:"), lambda each: _of_a_tenant(each))
"""Each Kubernetes object that belongs to a tenant."""


def tenant_of(resource: Resource) -> str:
    """Whose a resource is; empty if it is the platform's."""
    return resource.tenant or ""


def _of_a_tenant(resource: Resource) -> Iterable[Resource]:
    return (resource,) if resource.tenant else ()
