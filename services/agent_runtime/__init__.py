"""Runs a tenant's agents: in its machine, in a pod of its own, or in the pod that serves several tenants.

Up to the first request to an agent it is the standard library alone, so that a machine that wakes answers at
once; the agent's own packages are loaded then.
"""

HANDED_OVER = 4
"""The status with which a machine's runtime ends whose workspace is in the prefix: it is switched off."""
