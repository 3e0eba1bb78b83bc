"""Amounts of CPU, memory and devices, as Kubernetes writes them."""

from collections.abc import Mapping
from decimal import Decimal

from local.node_agent.kube import Object

_SUFFIXES = {
    **{suffix: Decimal(1024) ** (n + 1) for n, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))},
    **{suffix: Decimal(1000) ** (n + 1) for n, suffix in enumerate(("k", "M", "G", "T", "P", "E"))},
    "m": Decimal("0.001"),
    "u": Decimal("0.000001"),
    "n": Decimal("0.000000001"),
}

_ZERO = Decimal(0)

Amounts = Mapping[str, Decimal]
"""Amount by resource name: cores, bytes or pieces."""


def amount(quantity: str | int | float) -> Decimal:
    """Return a quantity such as `500m`, `2Gi` or `1k` as a number."""
    text = str(quantity)
    for suffix in (text[-2:], text[-1:]):
        if suffix in _SUFFIXES:
            return Decimal(text[: -len(suffix)]) * _SUFFIXES[suffix]
    return Decimal(text)


def amounts(quantities: Mapping[str, str]) -> dict[str, Decimal]:
    """Return a resource list as numbers."""
    return {name: amount(quantity) for name, quantity in quantities.items()}


def requests(pod: Object) -> Amounts:
    """Return what `pod` needs free on a node: its containers together, or its hungriest init container."""
    spec = pod["spec"]
    total: Amounts = {}
    first: Amounts = {}
    for container in spec.get("initContainers", ()):
        wanted = amounts(container.get("resources", {}).get("requests", {}))
        if container.get("restartPolicy") == "Always":  # a sidecar, which stays
            total = plus(total, wanted)
        else:
            first = _largest(first, wanted)
    for container in spec["containers"]:
        total = plus(total, amounts(container.get("resources", {}).get("requests", {})))
    return plus(_largest(total, first), amounts(spec.get("overhead", {})))


def plus(one: Amounts, other: Amounts) -> Amounts:
    """Return the sum by resource."""
    return {name: one.get(name, _ZERO) + other.get(name, _ZERO) for name in {*one, *other}}


def _largest(one: Amounts, other: Amounts) -> Amounts:
    return {name: max(one.get(name, _ZERO), other.get(name, _ZERO)) for name in {*one, *other}}
