"""Exoscale on this machine: API v2 as the official OpenAPI document describes it, over HTTP, with state.

What is served and what is not is decided in `compute`, `sks` and `iam`; any other operation of the document
answers 501 with its name. `server` checks signature, policy, request and response; `proxy` lets clients reach
it under the official host names.
"""
