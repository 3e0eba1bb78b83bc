"""Plays the nodes of the embedded Kubernetes: scheduler, kubelet, CSI driver and KubeVirt's virt-handler."""

from local.paths import DATA

STATE = DATA / "node-agent"
"""What the agent keeps: the records of our Pods, and `at-work`, which is locked while it is at work."""
