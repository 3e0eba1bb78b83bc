from decimal import Decimal

import pytest

from local.node_agent.quantities import amount


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("500m", "0.5"),
        ("1Ki", 1024),
        ("1.5Gi", 1.5 * 2**30),
        ("1k", 1000),
        ("2E", 2 * 10**18),
        (3, 3),
        ("1e3", 1000),
    ],
)
def test_amount(text: str | int, value: str | float) -> None:
    assert amount(text) == Decimal(value)
