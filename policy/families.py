"""Every rule of the pack: importing a family registers its rules."""

from collections.abc import Mapping

from policy import access, data, honesty, images, network, pods, residency, tenancy  # noqa: F401
from policy.rules import RULES, Rule


def all_rules() -> Mapping[str, Rule]:
    """By id."""
    return RULES
