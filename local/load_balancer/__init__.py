"""The platform's load balancer: ports on loopback, relayed to the gateway's ready pods.

It plays what stands before the nodes in production: it moves bytes, so TLS ends at the gateway.
"""
