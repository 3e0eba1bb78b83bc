"""Drives a stand-in as the engine does: over gRPC, one resource through its whole life."""

from dataclasses import dataclass
from typing import Any

import grpc  # type: ignore[import-untyped]
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc

from local.providers import server
from local.providers.provider import Provider
from local.providers.values import Properties, decode, encode


class RefusedError(Exception):
    """What the engine would show beside the resource."""


@dataclass(frozen=True)
class Made:
    """A resource in the state."""

    token: str
    name: str
    id: str
    inputs: Properties
    outputs: Properties

    @property
    def urn(self) -> str:
        return f"urn:pulumi:s::p::{self.token}::{self.name}"


class Driver:
    """A configured stand-in."""

    def __init__(self, provider: Provider, config: Properties) -> None:
        self._server, port = server.start(provider)
        self._stub = provider_pb2_grpc.ResourceProviderStub(grpc.insecure_channel(f"127.0.0.1:{port}"))
        request = provider_pb2.CheckRequest(
            urn=f"urn:pulumi:s::p::pulumi:providers:{provider.name}::default", news=encode(config)
        )
        checked = self._call("CheckConfig", request)
        self.config_failures = [f"{failure.property}: {failure.reason}" for failure in checked.failures]
        self._call("Configure", provider_pb2.ConfigureRequest(args=checked.inputs))

    def close(self) -> None:
        self._server.stop(None)

    def _call(self, method: str, request: Any) -> Any:
        try:
            return getattr(self._stub, method)(request)
        except grpc.RpcError as error:
            raise RefusedError(error.details()) from None

    def check(
        self, token: str, name: str, inputs: Properties, old: Properties | None = None
    ) -> tuple[Properties, list[str]]:
        request = provider_pb2.CheckRequest(
            urn=Made(token, name, "", {}, {}).urn,
            news=encode(inputs),
            olds=encode(old or {}),
            randomSeed=bytes(range(32)),
        )
        checked = self._call("Check", request)
        return decode(checked.inputs), [failure.reason for failure in checked.failures]

    def create(self, token: str, name: str, inputs: Properties) -> Made:
        checked, failures = self.check(token, name, inputs)
        assert not failures
        urn = Made(token, name, "", {}, {}).urn
        request = provider_pb2.CreateRequest(urn=urn, properties=encode(checked))
        created = self._call("Create", request)
        return Made(token, name, created.id, checked, decode(created.properties))

    def preview(self, token: str, name: str, inputs: Properties) -> Properties:
        checked, failures = self.check(token, name, inputs)
        assert not failures
        urn = Made(token, name, "", {}, {}).urn
        request = provider_pb2.CreateRequest(urn=urn, properties=encode(checked), preview=True)
        created = self._call("Create", request)
        assert created.id == ""
        return decode(created.properties)

    def changes(self, made: Made, inputs: Properties, ignored: list[str] | None = None) -> Any:
        checked, _ = self.check(made.token, made.name, inputs, made.inputs)
        request = provider_pb2.DiffRequest(
            urn=made.urn,
            id=made.id,
            old_inputs=encode(made.inputs),
            olds=encode(made.outputs),
            news=encode(checked),
            ignoreChanges=ignored or [],
        )
        return self._call("Diff", request)

    def changed(self, made: Made, inputs: Properties) -> list[str]:
        return sorted(self.changes(made, inputs).detailedDiff)

    def update(self, made: Made, inputs: Properties) -> Made:
        checked, failures = self.check(made.token, made.name, inputs, made.inputs)
        assert not failures
        request = provider_pb2.UpdateRequest(
            urn=made.urn,
            id=made.id,
            old_inputs=encode(made.inputs),
            olds=encode(made.outputs),
            news=encode(checked),
        )
        outputs = decode(self._call("Update", request).properties)
        return Made(made.token, made.name, made.id, checked, outputs)

    def read(self, made: Made) -> Made | None:
        request = provider_pb2.ReadRequest(
            urn=made.urn, id=made.id, inputs=encode(made.inputs), properties=encode(made.outputs)
        )
        found = self._call("Read", request)
        if not found.id:
            return None
        return Made(made.token, made.name, found.id, decode(found.inputs), decode(found.properties))

    def import_(self, token: str, name: str, id: str) -> Made | None:
        return self.read(Made(token, name, id, {}, {}))

    def delete(self, made: Made) -> None:
        request = provider_pb2.DeleteRequest(
            urn=made.urn, id=made.id, old_inputs=encode(made.inputs), properties=encode(made.outputs)
        )
        self._call("Delete", request)
