"""Stops tenants' machines that nobody uses: one sweep, run as a CronJob every minute.

`sweep.py` is the sweep, `machines.py` what it sees of a machine, `reasons.py` what it says of one. When a
machine is idle is decided in services/activity/lua/rule.lua. In doubt it stops nothing, and says so.
"""
