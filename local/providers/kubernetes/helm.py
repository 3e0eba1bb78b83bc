"""Helm releases: checked and previewed from the schema; installing one needs the official plugin."""

import hashlib
from typing import Never

from local.providers.kubernetes.connection import Connection
from local.providers.provider import Call, Failure, ProviderError, Resource, State
from local.providers.schema import Schema
from local.providers.values import UNKNOWN, Properties

RELEASE = "kubernetes:helm.sh/v3:Release"
_DEFAULT_TIMEOUT = 300
"""Seconds."""


class Release(Resource):
    """A Helm release without Helm: no chart is fetched, so its version is the one asked for."""

    replace_on = frozenset({"name", "namespace"})
    delete_before_replace = True

    def __init__(self, schema: Schema, connection: Connection) -> None:
        """The releases of one cluster."""
        self._schema = schema
        self._connection = connection

    def check(self, call: Call, old: Properties, new: Properties) -> tuple[Properties, list[Failure]]:
        """The inputs against the schema, with the official defaults."""
        inputs, failures = self._schema.resource(call.token).check(call.name, new)
        if not inputs.get("name"):
            digits = hashlib.sha256(call.random_seed or call.urn.encode()).hexdigest()[:8]
            inputs["name"] = old.get("name") or f"{call.name}-{digits}"
        if not inputs.get("namespace"):
            inputs["namespace"] = self._connection.default_namespace
        if not inputs.get("skipAwait"):
            inputs.setdefault("timeout", _DEFAULT_TIMEOUT)
        return inputs, failures

    def create(self, call: Call, inputs: Properties) -> tuple[str, Properties]:
        """What a preview can tell."""
        if not call.preview:
            _refuse(call)
        return "", {**self._schema.resource(call.token).preview(inputs), "status": UNKNOWN}

    def read(self, call: Call, id: str, state: State) -> State | None:
        """As the last update left it: the stand-in has not made it and cannot look."""
        del id
        if not state.inputs:
            _refuse(call)
        return state

    def update(self, call: Call, id: str, old: State, inputs: Properties) -> Properties:
        """What a preview can tell."""
        del id
        if not call.preview:
            _refuse(call)
        return {**old.outputs, **inputs, "status": UNKNOWN}

    def delete(self, call: Call, id: str, state: State) -> None:
        """Not without Helm."""
        del id, state
        _refuse(call)


def _refuse(call: Call) -> Never:
    raise ProviderError(
        f"The Helm release {call.name!r} was not touched: the stand-in for the kubernetes plugin can preview "
        "Helm releases but not install, read or remove them. Put the official pulumi-resource-kubernetes on "
        "PATH."
    )
