"""Sum up a month: the cost and the price of each tenant, held against the provider's invoice.

libpq's variables (PGHOST, PGUSER, PGPASSWORD, …) say where the platform's PostgreSQL is.
"""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from costs import estate, invoice, ledger, statement
from costs.errors import CostsError
from costs.invoice import Comparison
from costs.statement import Line, Statement
from review.cost import load_prices
from review.errors import ReviewError

_ROOT = Path(__file__).parents[1]
_GIB = 2**30
_NOTHING = "\N{EN DASH}"
_THOUSANDS = "\N{RIGHT SINGLE QUOTATION MARK}"

_COLUMNS: Sequence[tuple[str, str, Callable[[Line], Any]]] = (
    ("awake h", "awakeHours", lambda line: line.awake_hours),
    ("workspace GiB", "workspaceGib", lambda line: line.workspace_gib),
    ("objects GiB", "objectGib", lambda line: line.object_gib),
    ("database GiB", "databaseGib", lambda line: line.database_gib),
    ("backups GiB", "backupGib", lambda line: line.backup_gib),
    ("sent GiB", "sentGib", lambda line: Decimal(line.sent_bytes) / _GIB),
    ("received GiB", "receivedGib", lambda line: Decimal(line.received_bytes) / _GIB),
    ("sent bytes", "sentBytes", lambda line: line.sent_bytes),
    ("received bytes", "receivedBytes", lambda line: line.received_bytes),
    ("own CHF", "ownChf", lambda line: line.own),
    ("share CHF", "shareChf", lambda line: line.share),
    ("cost CHF", "costChf", lambda line: line.cost),
    ("price CHF", "priceChf", lambda line: line.price),
    ("margin CHF", "marginChf", lambda line: line.margin),
)
_SHORT = (
    *("awake h", "workspace GiB", "objects GiB", "database GiB", "sent GiB"),
    *("own CHF", "share CHF", "cost CHF", "price CHF", "margin CHF"),
)
"""The columns that a terminal has room for."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; what goes wrong is one message on standard error."""
    parser = argparse.ArgumentParser(prog="python -m costs", description=__doc__)
    parser.add_argument("--month", default=f"{datetime.now(UTC):%Y-%m}", help="YYYY-MM; else the present one")
    parser.add_argument(
        "--stack", default="prod", help="the stack whose Pulumi.STACK.yaml says what is rented"
    )
    parser.add_argument("--prices", default="exoscale", help="the price set of review/prices.yaml")
    parser.add_argument("--invoice", type=Path, metavar="FILE", help="Exoscale's usage report of that month")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything, as JSON")
    form.add_argument("--csv", action="store_true", help="a line for each tenant, as CSV")
    options = parser.parse_args(arguments)
    try:
        month = ledger.Month.parse(options.month)
        configured = estate.read(_ROOT / f"Pulumi.{options.stack}.yaml")
        prices = load_prices(options.prices, hours=month.hours)
        drawn = statement.draw_up(ledger.read(month), configured, prices)
        compared = invoice.compare(options.invoice, drawn, prices) if options.invoice else None
    except (CostsError, ReviewError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyError:
        sys.stderr.write(
            f"error: review/prices.yaml has no price set {options.prices!r}; nothing was summed up.\n"
        )
        return 1
    if options.json:
        json.dump(_document(drawn, compared), sys.stdout, indent=2)
        sys.stdout.write("\n")
    elif options.csv:
        _write_csv(drawn)
    else:
        _print(drawn, compared)
    return 0


def _print(drawn: Statement, compared: Comparison | None) -> None:
    # What is read by a program or a page is not cut to a terminal's width.
    console = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 170)
    hours = drawn.hours
    console.print(
        f"{hours.month.begins:%Y-%m}: counted from {hours.begins:%Y-%m-%d %H:%M} to "
        f"{hours.ends:%Y-%m-%d %H:%M} UTC, {hours.seconds / 3600:.1f} of {hours.month.hours} hours"
    )
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("tenant")
    for title in _SHORT:
        table.add_column(title, justify="right")
    shown = [column for column in _COLUMNS if column[0] in _SHORT]
    for tier, lines in statement.by_tier(drawn.lines).items():
        for line in sorted(lines, key=lambda one: -one.cost):
            table.add_row(line.tenant, *(_cell(read(line)) for _, _, read in shown))
        table.add_row(f"[bold]{tier}: {len(lines)}", *_sums(lines, shown), end_section=True)
    table.add_row(f"[bold]all: {len(drawn.lines)}", *_sums(drawn.lines, shown))
    console.print(table)
    console.print(
        f"Of the nodes that all share, {min(drawn.compute_used, Decimal(1)):.0%} was sold and awake; what "
        "nobody took up is shared out by head."
    )
    if compared:
        _print_comparison(console, compared)


def _print_comparison(console: Console, compared: Comparison) -> None:
    table = Table(box=box.SIMPLE_HEAD, title="held against the provider's report", title_justify="left")
    for title in ("item", "metered", "reported", "metered CHF", "reported CHF", "difference CHF"):
        table.add_column(title, justify="left" if title == "item" else "right")
    for item in compared.items:
        amounts = (item.metered, item.invoiced, item.metered_chf, item.invoiced_chf)
        table.add_row(item.item, *map(_cell, amounts), _cell(item.invoiced_chf - item.metered_chf))
    difference = compared.invoiced_chf - compared.metered_chf
    sums = (compared.metered_chf, compared.invoiced_chf, difference)
    table.add_row("[bold]all", "", "", *map(_cell, sums))
    console.print(table)
    for line in compared.unknown:
        console.print(Text(f"Not in the price list, and so in no sum: {line}"))


def _sums(lines: Sequence[Line], shown: Sequence[tuple[str, str, Callable[[Line], Any]]]) -> list[str]:
    found = []
    for _, _, read in shown:
        values = [value for line in lines if (value := read(line)) is not None]
        found.append(f"[bold]{_cell(sum(values) if values else None)}")
    return found


def _cell(value: Decimal | int | None) -> str:
    if value is None:
        return _NOTHING
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
    return text.replace(",", _THOUSANDS)


def _write_csv(drawn: Statement) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(["tenant", "tier", *(name for _, name, _ in _COLUMNS)])
    for line in drawn.lines:
        values = (read(line) for _, _, read in _COLUMNS)
        writer.writerow(
            [line.tenant, line.tier, *("" if each is None else _rounded(each) for each in values)]
        )


def _document(drawn: Statement, compared: Comparison | None) -> dict[str, Any]:
    hours = drawn.hours
    document: dict[str, Any] = {
        "month": f"{hours.month.begins:%Y-%m}",
        "from": hours.begins.isoformat(),
        "to": hours.ends.isoformat(),
        "tenants": [
            {
                "tenant": line.tenant,
                "tier": line.tier,
                **{name: _rounded(read(line)) for _, name, read in _COLUMNS},
            }
            for line in drawn.lines
        ],
        "costChf": _rounded(drawn.cost),
        "priceChf": _rounded(drawn.price),
        "computeUsed": _rounded(drawn.compute_used),
        "metered": [
            {"item": item.item, "quantity": _rounded(item.quantity), "chf": _rounded(item.amount)}
            for item in drawn.metered
        ],
    }
    if compared:
        document["invoice"] = {
            "items": [
                {
                    "item": item.item,
                    "metered": _rounded(item.metered),
                    "invoiced": _rounded(item.invoiced),
                    "meteredChf": _rounded(item.metered_chf),
                    "invoicedChf": _rounded(item.invoiced_chf),
                }
                for item in compared.items
            ],
            "meteredChf": _rounded(compared.metered_chf),
            "invoicedChf": _rounded(compared.invoiced_chf),
            "unknown": list(compared.unknown),
        }
    return document


def _rounded(value: Decimal | int | None) -> float | int | None:
    return value if value is None or isinstance(value, int) else round(float(value), 6)


if __name__ == "__main__":
    sys.exit(main())
