"""What the operators' page counts with: list prices of what a tenant has to itself."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from infra.tenants import node_pool
from infra.tenants.tiers import TIERS
from review.cost import load_prices
from tests.infra.recording import stack
from tests.infra.tenants.test_own_parts import record

MACHINE = {"id": "acme", "tier": "enterprise"}
PRIVATE = {"id": "acme", "tier": "private-cloud"}
PRICES = {"unitHour": 0.05, "diskGibHour": 0.0002}


def told(folder: Path, entry: dict[str, Any], **values: Any) -> dict[str, float] | None:
    recorder = record(folder, entry, values={**stack("prod"), "prices": PRICES, **values})
    route = json.loads(recorder["acme-route"].inputs["data"]["route.json"])
    found: dict[str, float] | None = route.get("price")
    return found


def test_a_machine_costs_by_the_hour_awake_and_its_disk_always(tmp_path: Path) -> None:
    # 4 CPUs with 8 GiB take up a node as 4 units do; 50 GiB three times over, for 730 hours.
    assert told(tmp_path, MACHINE) == {"awakeHourChf": 0.2, "monthChf": 21.9}


def test_memory_counts_where_there_is_more_of_it(tmp_path: Path) -> None:
    large = {**MACHINE, "sizes": {"cpu": 2, "memoryGib": 32}}

    assert told(tmp_path, large) == {"awakeHourChf": 0.4, "monthChf": 21.9}


def test_a_pod_that_never_sleeps_costs_the_whole_month(tmp_path: Path) -> None:
    pod = {"id": "acme", "tier": "professional"}

    assert told(tmp_path, pod) == {"awakeHourChf": 0.0, "monthChf": 73.0}
    assert told(tmp_path, {**pod, "state": "suspended"}) == {"awakeHourChf": 0.0, "monthChf": 0.0}


def test_a_tenants_own_nodes_cost_the_same_awake_or_asleep(tmp_path: Path) -> None:
    # Two nodes of 4 CPUs and 16 GiB with 50 GiB of disk each, and 100 GiB three times over on those of all.
    nodes, disks = 2 * (4 * 0.05 + 50 * 0.0002) * 730, 100 * 3 * 0.0002 * 730

    assert told(tmp_path, PRIVATE) == {"awakeHourChf": 0.0, "monthChf": pytest.approx(nodes + disks)}


def test_what_is_shared_has_no_price_of_its_own(tmp_path: Path) -> None:
    assert told(tmp_path, {"id": "acme", "tier": "starter"}) is None


def test_without_prices_none_is_made_up(tmp_path: Path) -> None:
    assert told(tmp_path, MACHINE, prices=None) is None


@pytest.mark.parametrize("name", ["prod", "local"])
def test_the_stacks_prices_are_those_of_the_review(name: str) -> None:
    own, bill = stack(name)["prices"], load_prices("exoscale")

    assert Decimal(str(own["diskGibHour"])) * 730 == bill.items["node disk GiB"]
    pools = {pool["instanceType"] for pool in stack(name)["cluster"]["nodePools"]}
    own_nodes = {node_pool.instance_type(TIERS["private-cloud"].default)}
    for kind in pools | own_nodes:
        node = bill.instances[kind]
        units = max(node.cpu, node.memory_gib / 4)
        assert float(node.month) / 730 / units == pytest.approx(own["unitHour"], rel=0.001), kind
