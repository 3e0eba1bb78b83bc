"""The statement of a month: who pays for what, and what is said of an invoice and of bad input."""

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costs import __main__ as program
from costs import estate, invoice, ledger, statement
from costs.errors import CostsError
from costs.ledger import Hours, Month, Used
from costs.statement import Line, Statement
from review.cost import load_prices
from review.errors import ReviewError

ROOT = Path(__file__).parents[2]
MONTH = Month.parse("2026-11")
DAY, GIB = Decimal(86_400), Decimal(2**30)
PRICES = load_prices("exoscale", hours=MONTH.hours)


def used(tenant: str = "acme", *, days: float = 30, awake_days: float = 3, **fields: Any) -> Used:
    """What a tenant of tier enterprise has used in so many days."""
    seconds = Decimal(str(days)) * DAY
    values: dict[str, Any] = {
        "tenant": tenant,
        "tier": "enterprise",
        "cpu": 4,
        "memory_gib": 8,
        "workspace_gib": 50,
        "seconds": seconds,
        "awake_seconds": Decimal(str(awake_days)) * DAY,
        "object_byte_seconds": 10 * GIB * seconds,
        "database_byte_seconds": GIB * seconds,
        "backup_byte_seconds": Decimal(),
        **dict.fromkeys(("received_bytes", "sent_bytes"), 0),
    }
    return Used(**values | fields)


def hours(*parts: Used, days: float = 30) -> Hours:
    return Hours(
        month=MONTH,
        begins=MONTH.begins,
        ends=MONTH.begins + timedelta(days=days),
        seconds=Decimal(str(days)) * DAY,
        used=parts,
    )


def configured(**fields: Any) -> estate.Configured:
    found = estate.read(ROOT / "Pulumi.local.yaml")
    return estate.Configured(**{**vars(found), **fields})


def drawn(*parts: Used, days: float = 30) -> Statement:
    return statement.draw_up(hours(*parts, days=days), configured(), PRICES)


def line(found: Statement, tenant: str) -> Line:
    return next(line for line in found.lines if line.tenant == tenant)


parts = st.builds(
    used,
    st.sampled_from(["acme", "bluebird", "corvus"]),
    days=st.floats(0.1, 30),
    awake_days=st.floats(0, 0.1),
    tier=st.sampled_from(["starter", "professional", "enterprise", "private-cloud", "of an older release"]),
    cpu=st.sampled_from([4, 8, 16]),
)


@given(st.lists(parts, min_size=1, max_size=8), st.floats(1, 30))
def test_the_parts_add_up_to_all_that_is_paid(found: list[Used], days: float) -> None:
    whole = drawn(*found, days=days)
    rented = sum(item.amount for item in whole.metered)
    assert abs(whole.cost - rented) < Decimal("0.0001")
    assert {each.tenant for each in whole.lines} == {part.tenant for part in found}


def test_half_a_month_costs_half_of_what_all_share() -> None:
    found = drawn(used("acme"), used("late", days=15, awake_days=1.5))
    assert abs(line(found, "late").share * 2 - line(found, "acme").share) < Decimal("0.0001")
    assert line(found, "late").price == line(found, "acme").price / 2  # type: ignore[operator]


def test_a_size_that_changed_makes_no_second_head() -> None:
    one = drawn(used("acme"), used("bluebird"))
    two = drawn(
        used("acme", days=10, awake_days=1), used("acme", days=20, awake_days=2, cpu=8), used("bluebird")
    )
    assert abs(line(two, "bluebird").share - line(two, "acme").share) < Decimal("0.0001")
    assert line(two, "acme").own > line(one, "acme").own
    assert line(two, "acme").awake_hours == 72


def test_a_machine_pays_for_the_hours_that_it_is_awake() -> None:
    asleep, awake = drawn(used(awake_days=0)), drawn(used(awake_days=30))
    # standard.huge has 8 CPUs and 32 GiB, of which 4 are sold; three make the pool.
    assert abs((awake.lines[0].own - asleep.lines[0].own) - 720 * Decimal("0.37334") / 2) < Decimal("0.001")
    assert awake.cost == asleep.cost


def test_nodes_of_its_own_are_its_own_whether_it_sleeps_or_not() -> None:
    found = drawn(used("mine", tier="private-cloud", awake_days=0), used("other", awake_days=0))
    # standard.extra-large, two of them, with 50 GiB each.
    nodes = 2 * 720 * (Decimal("0.18667") + 50 * Decimal("0.00014"))
    assert abs(line(found, "mine").own - line(found, "other").own - nodes) < Decimal("1")
    assert line(found, "mine").price is None
    assert line(found, "mine").margin is None


def test_a_month_that_is_not_over_costs_what_has_passed() -> None:
    begun = drawn(used(days=3, awake_days=0.3), days=3)
    assert abs(begun.cost * 10 - drawn(used()).cost) < Decimal("0.01")
    assert begun.lines[0].price == Decimal("79.92")


def test_without_a_rate_no_price_is_known() -> None:
    found = statement.draw_up(hours(used()), configured(chf_per_usd=None), PRICES)
    assert found.lines[0].price is None
    assert found.lines[0].margin is None
    assert found.price == 0


@pytest.mark.parametrize(
    ("text", "days", "ends"),
    [("2026-12", 31, (2027, 1)), ("2026-11", 30, (2026, 12)), ("2028-02", 29, (2028, 3))],
)
def test_a_month(text: str, days: int, ends: tuple[int, int]) -> None:
    month = Month.parse(text)
    assert month.hours == days * 24
    assert (month.ends.year, month.ends.month) == ends


@pytest.mark.parametrize("text", ["2026-13", "11", "2026-11-01", "now", "", "9999-12"])
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(CostsError, match=r"is no month, so nothing was summed up; write YYYY-MM"):
        Month.parse(text)


def report(tmp_path: Path, *lines: dict[str, Any], text: str | None = None) -> Path:
    path = tmp_path / "usage.json"
    path.write_text(text if text is not None else json.dumps({"usage": list(lines)}))
    return path


def reported(variable: str, quantity: str, **fields: Any) -> dict[str, Any]:
    spoken = {"from": "2026-11-01T00:00:00Z", "to": "2026-12-01T00:00:00Z", "product": "compute"}
    return {
        **spoken,
        "variable": variable,
        "description": "",
        "quantity": quantity,
        "unit": "hours",
        **fields,
    }


def test_an_invoice_is_held_against_what_is_metered(tmp_path: Path) -> None:
    path = report(
        tmp_path,
        reported("running_huge", "2000"),
        reported("running_huge", "200"),
        reported("volume_local", "216000"),
        reported("something_new", "7", unit="pieces"),
    )
    compared = invoice.compare(path, drawn(used()), PRICES)
    nodes, disks = compared.items[0], compared.items[1]
    assert [nodes.item, nodes.metered, nodes.invoiced] == ["standard.huge", 3 * 720, 2200]
    assert abs(nodes.invoiced_chf - nodes.metered_chf - 40 * Decimal("0.37334")) < Decimal("0.0001")
    assert [disks.metered, disks.invoiced] == [3 * 100 * 720, 216_000]
    assert compared.unknown == ["compute something_new: 7 pieces"]
    assert compared.metered_chf == sum(each.amount for each in drawn(used()).metered)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<html>", "cannot be read as JSON"),
        ("[]", 'has no list "usage"'),
        ('{"usage": [1]}', r"usage\[0\] has no text from"),
        (json.dumps({"usage": [reported("nlb", "many")]}), r"usage\[0\].quantity 'many' is no number"),
        (json.dumps({"usage": [reported("nlb", "NaN")]}), r"usage\[0\].quantity 'NaN' is no quantity"),
        (
            json.dumps({"usage": [{**reported("nlb", "1"), "from": "2026-10-01"}]}),
            "is of 2026-10-01, not of 2026-11",
        ),
    ],
)
def test_an_invoice_that_does_not_parse_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(CostsError, match=why):
        invoice.compare(report(tmp_path, text=text), drawn(used()), PRICES)


def test_an_invoice_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CostsError, match="cannot be read as JSON"):
        invoice.compare(tmp_path / "absent.json", drawn(used()), PRICES)


def test_a_node_without_a_price_is_refused() -> None:
    found = configured()
    pool = found.cluster.node_pools[0].model_copy(update={"instance_type": "gpu9.huge"})
    cluster = found.cluster.model_copy(update={"node_pools": (pool,)})
    with pytest.raises(ReviewError, match=r"no price for instance type 'gpu9.huge'"):
        statement.draw_up(hours(used()), configured(cluster=cluster), PRICES)


@pytest.mark.parametrize(
    "text", ["config: {}", "config: [", "config: {agent-platform:cluster: {name: x}}", "7"]
)
def test_a_stack_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "Pulumi.x.yaml").write_text(text)
    with pytest.raises(CostsError, match=r"Pulumi.x.yaml: the cluster that it configures cannot be read"):
        estate.read(tmp_path / "Pulumi.x.yaml")


@pytest.mark.parametrize("rate", ["abc", "true", "{}", ".nan", "-1", "0"])
def test_a_rate_that_is_none_is_refused(tmp_path: Path, rate: str) -> None:
    text = (ROOT / "Pulumi.local.yaml").read_text().replace("chfPerUsd: 0.80", f"chfPerUsd: {rate}")
    (tmp_path / "Pulumi.x.yaml").write_text(text)
    with pytest.raises(CostsError, match=r"prices.chfPerUsd .* is no rate"):
        estate.read(tmp_path / "Pulumi.x.yaml")


@pytest.mark.parametrize("stack", ["local", "prod"])
def test_every_stack_of_the_project_can_be_read(stack: str) -> None:
    found = estate.read(ROOT / f"Pulumi.{stack}.yaml")
    assert found.load_balancers == {"local": 1, "prod": 4}[stack]


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command over a month of two tenants."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = program.main(["--stack", "local", *arguments])
        return status, *capsys.readouterr()

    read = hours(used("acme", sent_bytes=3 * 2**30), used("bluebird", tier="starter", cpu=0, workspace_gib=0))
    monkeypatch.setattr(ledger, "read", lambda _: read)
    return run


def test_the_table_says_what_it_covers_and_sums_up_by_tier(run: Run) -> None:
    status, shown, _ = run("--month", "2026-11")
    assert status == 0
    assert "counted from 2026-11-01 00:00 to 2026-12-01 00:00 UTC, 720.0 of 720 hours" in shown
    assert all(word in shown for word in ("acme", "bluebird", "enterprise: 1", "starter: 1", "all: 2"))


def test_json_and_csv_say_the_same(run: Run) -> None:
    document = json.loads(run("--month", "2026-11", "--json")[1])
    rows = list(csv.DictReader(io.StringIO(run("--month", "2026-11", "--csv")[1])))
    assert [row["tenant"] for row in rows] == ["acme", "bluebird"]
    for row, told in zip(rows, document["tenants"], strict=True):
        assert float(row["costChf"]) == told["costChf"]
    assert document["tenants"][0]["sentGib"] == 3
    assert abs(sum(told["costChf"] for told in document["tenants"]) - document["costChf"]) < 0.001


def test_bad_input_is_one_message_and_status_1(run: Run, tmp_path: Path) -> None:
    for arguments in (
        ("--month", "soon"),
        ("--stack", "elsewhere"),
        ("--prices", "of another cloud"),
        ("--invoice", str(tmp_path / "absent.json")),
    ):
        status, shown, told = run(*arguments)
        assert (status, shown, told.count("\n")) == (1, "", 1)
        assert told.startswith("error: ")


def test_a_database_that_does_not_answer_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGPORT", "1")
    with pytest.raises(CostsError, match=r"^the ledger cannot be read: .*refused"):
        ledger.read(Month(begins=datetime(2026, 11, 1, tzinfo=UTC), ends=datetime(2026, 12, 1, tzinfo=UTC)))
