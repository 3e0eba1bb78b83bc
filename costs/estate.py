"""The rented parts of a stack that do not depend on its tenants, read from its configuration."""

import json
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from costs.errors import CostsError
from infra.settings import NAMESPACE, ClusterSettings

_MANAGED_WITH_ENTRANCE = ("database", "redis", "vault")
"""The services that operators reach through a load balancer of their own, if this program runs them."""


@dataclass(frozen=True, kw_only=True)
class Configured:
    """The rented parts of a stack that do not depend on its tenants."""

    cluster: ClusterSettings
    load_balancers: int
    chf_per_usd: Decimal | None
    """None: nobody says, so that tenants' prices, which are in USD, are not known in CHF."""


def read(path: Path) -> Configured:
    """Read `Pulumi.STACK.yaml`. Raises CostsError."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))["config"]
        cluster = ClusterSettings.model_validate_json(json.dumps(document[f"{NAMESPACE}:cluster"]))
        rate = (document.get(f"{NAMESPACE}:prices") or {}).get("chfPerUsd")
        managed = [
            name
            for name in _MANAGED_WITH_ENTRANCE
            if isinstance(found := document.get(f"{NAMESPACE}:{name}"), dict) and "managed" in found
        ]
        chf_per_usd = None if rate is None else _rate(rate)
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise CostsError(
            f"{path.name}: the cluster that it configures cannot be read ({_brief(error)}), so nobody knows "
            "what is paid for; name the stack whose tenants these are with `--stack`."
        ) from None
    return Configured(
        cluster=cluster,
        load_balancers=1 + len(managed),
        chf_per_usd=chf_per_usd,
    )


def _rate(told: Any) -> Decimal:
    if isinstance(told, bool) or not isinstance(told, int | float) or not 0 < told < 1000:
        raise ValueError(f"prices.chfPerUsd {told!r} is no rate")
    return Decimal(str(told))


def _brief(error: Any) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
