"""Plays the nodes of the embedded Kubernetes: scheduler, kubelet, CSI driver and KubeVirt's virt-handler."""

from local.paths import DATA

STATE = DATA / "node-agent"
"""What the agent keeps: records of our Pods and of guests, the data of volumes, and `at-work`, which is
locked while it is at work."""

MODE = "AGENT_PLATFORM_GUESTS"
"""Environment variable: `auto` boots what can be booted, `real` insists on it, `reported` boots nothing."""
