"""The policy pack: what must not ship, one function a rule, judged by the engine before anything is changed.

A family of rules is a file; `rules.py` says what a rule is, `server.py` how the engine asks.
"""
