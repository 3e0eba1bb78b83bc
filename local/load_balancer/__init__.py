"""The platform's load balancer: one port on loopback, relayed to the gateway's ready pods.

It plays what stands before the nodes in production: it moves bytes, so TLS ends at the gateway.
"""
