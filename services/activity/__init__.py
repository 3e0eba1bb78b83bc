"""Who is active, in Redis, and who may therefore be stopped: what gateway and suspender tell each other.

The protocol is in docs/decisions/0050.
"""
