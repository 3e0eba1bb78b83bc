"""The cost model: the guide's two examples come out of it, and its parts add up."""

from decimal import Decimal

import pytest

from review.cost import Consumer, Estate, Pool, Prices, bill, load_assumptions, load_prices
from review.errors import ReviewError


def consumers(count: int, *, awake: str, volume_gib: int = 20) -> tuple[Consumer, ...]:
    return tuple(
        Consumer(
            id=f"tenant{number}",
            cpu=2,
            memory_gib=4,
            awake=Decimal(awake),
            volume_gib=Decimal(volume_gib),
            prefix_gib=Decimal(10),
        )
        for number in range(count)
    )


def test_the_guides_three_medium_nodes_cost_370_and_each_of_100_active_tenants_3_70() -> None:
    estate = Estate(
        pools=(Pool(owner=None, instance_type="medium", nodes=3, disk_gib=0),),
        consumers=consumers(100, awake="1"),
    )
    result = bill(estate, load_prices("guide-nodes"))
    assert result.total == Decimal("370")
    assert {round(amount, 10) for amount in result.tenants.values()} == {Decimal("3.70")}


def test_the_guides_hundred_customers_a_tenth_of_them_awake_cost_118_50() -> None:
    estate = Estate(pools=(), consumers=consumers(100, awake="0.1"))
    result = bill(estate, load_prices("guide-awake"))
    assert result.total == Decimal("118.50")
    assert {round(amount, 3) for amount in result.tenants.values()} == {Decimal("1.185")}


def test_the_guides_second_example_is_the_same_with_ten_awake_and_ninety_asleep() -> None:
    asleep = consumers(100, awake="0")[10:]
    estate = Estate(pools=(), consumers=(*consumers(10, awake="1"), *asleep))
    assert bill(estate, load_prices("guide-awake")).total == Decimal("118.50")


def estate(**changes: object) -> Estate:
    given: dict[str, object] = {
        "pools": (Pool(owner=None, instance_type="standard.extra-large", nodes=3, disk_gib=400),),
        "consumers": consumers(4, awake="0.1"),
        "load_balancers": 2,
        "control_plane": "pro",
    }
    return Estate(**(given | changes))  # type: ignore[arg-type]


@pytest.fixture
def prices() -> Prices:
    return load_prices("exoscale")


def test_the_parts_add_up_to_the_bill(prices: Prices) -> None:
    result = bill(estate(), prices)
    assert round(sum(result.tenants.values()), 10) == round(result.total, 10)
    assert all(amount > 0 for amount in result.own.values())


def test_a_list_price_for_an_hour_becomes_one_for_a_month(prices: Prices) -> None:
    assert prices.instances["standard.extra-large"].month == Decimal("0.18667") * 730
    only_nodes = estate(consumers=(), load_balancers=0, control_plane="starter")
    expected = 3 * Decimal("0.18667") * 730 + 1200 * Decimal("0.00014") * 730
    assert bill(only_nodes, prices).total == expected


def test_nodes_of_its_own_are_paid_by_their_tenant_whole(prices: Prices) -> None:
    alone = Pool(owner="tenant0", instance_type="standard.huge", nodes=2, disk_gib=100)
    [first, *others] = consumers(4, awake="0.1")
    dedicated = Consumer(**{**vars(first), "own_nodes": True})
    before = bill(estate(), prices)
    after = bill(estate(pools=(*estate().pools, alone), consumers=(dedicated, *others)), prices)
    added = 2 * prices.instances["standard.huge"].month + 200 * prices.items["node disk GiB"]
    assert after.total - before.total == added
    assert after.own["tenant0"] > added
    assert after.own["tenant1"] == before.own["tenant1"]


def test_a_sleeping_tenant_takes_up_its_volume_and_no_node(prices: Prices) -> None:
    awake = bill(estate(consumers=consumers(1, awake="1")), prices)
    asleep = bill(estate(consumers=consumers(1, awake="0")), prices)
    assert awake.total == asleep.total
    assert asleep.compute_used == 0
    assert 0 < asleep.own["tenant0"] < awake.own["tenant0"]


def test_what_does_not_fit_is_told_and_still_adds_up(prices: Prices) -> None:
    result = bill(estate(consumers=consumers(100, awake="1")), prices)
    assert result.compute_used > 1
    assert round(sum(result.tenants.values()), 10) == round(result.total, 10)


def test_a_load_balancer_of_its_own_is_paid_by_its_tenant(prices: Prices) -> None:
    [only] = consumers(1, awake="0")
    with_vpn = Consumer(**{**vars(only), "load_balancers": 1})
    without, withal = bill(estate(consumers=(only,)), prices), bill(estate(consumers=(with_vpn,)), prices)
    assert withal.own["tenant0"] - without.own["tenant0"] == prices.items["load balancer"]


def test_a_node_without_a_price_is_refused(prices: Prices) -> None:
    unknown = (Pool(owner=None, instance_type="gpu9.huge", nodes=1, disk_gib=0),)
    with pytest.raises(ReviewError, match=r"no price for instance type 'gpu9.huge'.*add it there"):
        bill(estate(pools=unknown), prices)


def test_a_platform_without_tenants_costs_what_it_costs(prices: Prices) -> None:
    assert bill(estate(consumers=()), prices).tenants == {}
    assert bill(estate(consumers=()), prices).total > 0


def test_every_price_says_where_it_comes_from_and_what_could_not_be_verified(prices: Prices) -> None:
    assert prices.unverified == ("object storage GiB", "control plane pro", "control plane starter")
    assert load_assumptions().awake == Decimal("0.1")
