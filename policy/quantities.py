"""Amounts as Kubernetes writes them: `500m`, `8Gi`, `2`.

<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>
"""

import re
from decimal import Decimal
from typing import Any

_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)(m|k|[KMGTPE]i?)?")
_POWERS = {unit: power for power, unit in enumerate("KMGTPE", start=1)}


def amount(written: Any) -> Decimal:
    """The number of cores, bytes or pieces.

    Raises:
        ValueError: it is no amount.
    """
    match = _AMOUNT.fullmatch(str(written))
    if match is None:
        raise ValueError(f"{written!r} is no amount")
    number, unit = Decimal(match[1]), match[2] or ""
    if unit == "m":
        return number / 1000
    base = Decimal(1024 if unit.endswith("i") else 1000)
    return number * base ** _POWERS.get(unit[:1].upper(), 0)


def gib(written: Any) -> Decimal:
    """An amount of bytes in GiB."""
    return amount(written) / 1024**3
