"""How nodes that are one tenant's own keep others away, and what the platform runs there all the same."""

from collections.abc import Mapping

TENANT_TAINT = "tenant-id"
"""The key of the taint, whose value is the tenant's id; the nodes' label is the same."""

TOLERATION: Mapping[str, str] = {"key": TENANT_TAINT, "operator": "Exists", "effect": "NoSchedule"}
"""For what every node needs to run machines: KubeVirt's handler and Longhorn's engine, and nothing else."""
