"""Retired tenants that a stack still has resources of, for a removal apart from the update.

An update in which something failed deletes nothing (docs/decisions/0063). As a command this is a filter
between two of Pulumi's, with a line of options for each tenant (docs/runbooks/an-update-is-refused.md):

    pulumi stack export | python -m infra.tenants.retired tenants.yaml | xargs -r -L 1 pulumi destroy --yes
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.errors import ConfigurationError
from infra.tenants.roster import Roster, load_roster

_TENANT = "agent-platform:tenants:Tenant"


def part_of(urn: str) -> tuple[str, str] | None:
    """The id of the tenant that a resource belongs to, and which part of it; `""` is the tenant itself.

    None where the resource is no tenant's.
    """
    kinds, name = urn.split("::", 3)[2:]
    if _TENANT not in kinds.split("$"):
        return None
    tenant, _, part = name.partition("-")
    return tenant, part


def remaining(deployment: Mapping[str, Any], roster: Roster) -> dict[str, list[str]]:
    """The URNs of each tenant in `retired` of which `deployment`, a stack's export, has resources."""
    retired, found = set(roster.retired), dict[str, list[str]]()
    for resource in deployment.get("resources") or ():
        owner = part_of(resource["urn"])
        if owner and owner[0] in retired:
            found.setdefault(owner[0], []).append(resource["urn"])
    return found


def main() -> int:
    """Read an export from standard input, write the options; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m infra.tenants.retired", description=__doc__)
    parser.add_argument("roster", nargs="?", type=Path, default="tenants.yaml")
    roster = parser.parse_args().roster
    try:
        tenants = remaining(json.load(sys.stdin)["deployment"], load_roster(roster))
    except ConfigurationError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except (ValueError, LookupError, TypeError, AttributeError):
        sys.stderr.write(
            "error: what was read is no export of a stack, so nobody is known to be left to remove; see "
            "what `pulumi stack export` told.\n"
        )
        return 1
    for urns in tenants.values():
        sys.stdout.write(" ".join(f"--target {urn}" for urn in urns) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
