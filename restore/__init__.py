"""Brings back what a tenant had at a time: plans, asks, restores, and compares the result with the source."""
