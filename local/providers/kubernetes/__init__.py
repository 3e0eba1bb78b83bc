"""A stand-in for the official kubernetes plugin: the same semantics over the raw API of the cluster."""
