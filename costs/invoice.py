"""The provider's invoice: Exoscale's usage report of a month, held against what the platform has metered.

The report is the answer of `GET /v2/usage-report?period=YYYY-MM`, which says how much, and not for how much:
<https://openapi-v2.exoscale.com/operation/operation-get-usage-report>. `review/prices.yaml` says which of its
variables is which item of the price list.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import yaml

from costs.errors import CostsError
from costs.ledger import Month
from costs.statement import Statement, price
from review.cost import PRICES, Prices

_FIELDS = ("from", "to", "product", "variable", "quantity", "unit")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One item, as the platform has metered it and as the provider has; amounts in CHF."""

    item: str
    metered: Decimal
    invoiced: Decimal
    metered_chf: Decimal
    invoiced_chf: Decimal


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The whole invoice."""

    items: Sequence[Compared]
    unknown: Sequence[str]
    """Lines of the invoice that the price list has no item for: their cost is not in the sum."""

    @property
    def metered_chf(self) -> Decimal:
        """Return what the platform expects."""
        return sum((item.metered_chf for item in self.items), Decimal())

    @property
    def invoiced_chf(self) -> Decimal:
        """Return what the provider will ask for."""
        return sum((item.invoiced_chf for item in self.items), Decimal())


def compare(path: Path, statement: Statement, prices: Prices) -> Comparison:
    """Hold the invoice in a file against a statement. Raises CostsError."""
    month = statement.hours.month
    variables = _variables()
    invoiced: dict[str, Decimal] = defaultdict(Decimal)
    unknown = []
    for line in _lines(path, month):
        item = variables.get(line["variable"])
        if item is None:
            unknown.append(f"{line['product']} {line['variable']}: {line['quantity']} {line['unit']}")
        else:
            invoiced[item] += line["quantity"]
    metered = {each.item: each for each in statement.metered}
    return Comparison(
        items=[
            Compared(
                item=item,
                metered=metered[item].quantity if item in metered else Decimal(),
                invoiced=invoiced[item],
                metered_chf=metered[item].amount if item in metered else Decimal(),
                invoiced_chf=invoiced[item] * price(prices, item, month.hours),
            )
            for item in dict.fromkeys([*metered, *invoiced])
        ],
        unknown=unknown,
    )


def _variables() -> Mapping[str, str]:
    found: dict[str, str] = yaml.safe_load(PRICES.read_text(encoding="utf-8"))["usage"]
    return found


def _lines(path: Path, month: Month) -> list[dict[str, Any]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(path, f"it cannot be read as JSON: {error}") from None
    lines = document.get("usage") if isinstance(document, dict) else None
    if not isinstance(lines, list):
        raise _refused(path, 'it has no list "usage"')
    return [_line(path, number, line, month) for number, line in enumerate(lines)]


def _line(path: Path, number: int, line: Any, month: Month) -> dict[str, Any]:
    where = f"usage[{number}]"
    missing = [name for name in _FIELDS if not isinstance(line, dict) or not isinstance(line.get(name), str)]
    if missing:
        raise _refused(path, f"{where} has no text {', '.join(missing)}")
    try:
        quantity = Decimal(line["quantity"])
    except InvalidOperation:
        raise _refused(path, f"{where}.quantity {line['quantity']!r} is no number") from None
    if not quantity.is_finite() or quantity < 0:
        raise _refused(path, f"{where}.quantity {line['quantity']!r} is no quantity")
    if not line["from"].startswith(f"{month.begins:%Y-%m}"):
        raise _refused(path, f"{where} is of {line['from']}, not of {month.begins:%Y-%m}")
    return {**line, "quantity": quantity}


def _refused(path: Path, why: str) -> CostsError:
    return CostsError(
        f"{path}: {why}, so the costs were held against nothing; it has to be the answer of Exoscale's "
        "`GET /v2/usage-report?period=YYYY-MM` for that month."
    )
