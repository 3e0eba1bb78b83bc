"""Serves a stand-in to the engine: the `ResourceProvider` protocol, over gRPC on loopback."""

import contextlib
import functools
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent import futures
from typing import Any, TypeVar

import grpc  # type: ignore[import-untyped]
from google.protobuf.any_pb2 import Any as AnyMessage  # type: ignore[import-untyped]
from google.protobuf.empty_pb2 import Empty  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc, plugin_pb2, provider_pb2, provider_pb2_grpc

from local.plugin_host import end_with_engine
from local.providers.provider import (
    Call,
    Diff,
    Failure,
    InitializationError,
    Provider,
    ProviderError,
    State,
)
from local.providers.values import Properties, Secret, decode, encode, mark_secrets, path_text, plain

_LOG = logging.getLogger(__name__)
_MESSAGE_LIMIT = 400 * 1024 * 1024
"""Bytes: the engine's own limit."""

_WORKERS = 256
"""The engine calls for many resources at once, and each may wait long for its object to become ready."""

_KINDS = {
    ("add", False): provider_pb2.PropertyDiff.ADD,
    ("add", True): provider_pb2.PropertyDiff.ADD_REPLACE,
    ("delete", False): provider_pb2.PropertyDiff.DELETE,
    ("delete", True): provider_pb2.PropertyDiff.DELETE_REPLACE,
    ("update", False): provider_pb2.PropertyDiff.UPDATE,
    ("update", True): provider_pb2.PropertyDiff.UPDATE_REPLACE,
}


def serve(provider: Provider) -> None:
    """Serve until the engine ends: prints the port, as the engine expects of a plugin."""
    debug = bool(os.environ.get("PULUMI_DEBUG_STAND_IN"))
    logging.basicConfig(stream=sys.stderr, level=logging.DEBUG if debug else logging.CRITICAL)
    if not debug:
        warnings.simplefilter("ignore")  # a library's remarks would show beside the user's resources
    end_with_engine()
    engine = sys.argv[1] if len(sys.argv) > 1 else None
    server, port = start(provider, engine=engine)
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    with contextlib.suppress(KeyboardInterrupt):  # how the engine ends it
        server.wait_for_termination()


def start(provider: Provider, *, engine: str | None = None) -> tuple[grpc.Server, int]:
    """The running server and its port; `engine` is where warnings are sent."""
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=_WORKERS),
        options=[
            ("grpc.max_receive_message_length", _MESSAGE_LIMIT),
            ("grpc.max_send_message_length", _MESSAGE_LIMIT),
        ],
    )
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(Servicer(provider, engine), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


def _answered(
    method: Callable[["Servicer", _Request], _Response],
) -> Callable[["Servicer", _Request, grpc.ServicerContext], _Response]:
    """Turns what a request raises into the status that the engine shows: one message, never a traceback."""

    @functools.wraps(method)
    def answer(servicer: "Servicer", request: _Request, context: grpc.ServicerContext) -> _Response:
        try:
            return method(servicer, request)
        except InitializationError as error:
            context.set_trailing_metadata((("grpc-status-details-bin", _partial(error)),))
            context.abort(grpc.StatusCode.UNKNOWN, str(error))
        except ProviderError as error:
            context.abort(grpc.StatusCode.UNKNOWN, str(error))
        except Exception as error:  # noqa: BLE001 - a bug of ours still reaches the user as one line
            _LOG.debug("%s failed", method.__name__, exc_info=error)
            context.abort(
                grpc.StatusCode.INTERNAL,
                f"{method.__name__} failed in the stand-in for {servicer.provider.name}: "
                f"{type(error).__name__}: {error}. Set PULUMI_DEBUG_STAND_IN=1 to see where.",
            )
        raise AssertionError("abort always raises")

    return answer


def _partial(error: InitializationError) -> bytes:
    detail = AnyMessage()
    detail.Pack(
        provider_pb2.ErrorResourceInitFailed(
            id=error.id, properties=encode(error.outputs), inputs=encode(error.inputs), reasons=error.reasons
        )
    )
    status = Status(code=grpc.StatusCode.UNKNOWN.value[0], message=str(error), details=[detail])
    return bytes(status.SerializeToString())


class Servicer(provider_pb2_grpc.ResourceProviderServicer):
    """The protocol's requests, each handed to the provider with its values decoded."""

    def __init__(self, provider: Provider, engine: str | None) -> None:
        """`engine` is the address of the engine's own service, if known."""
        self.provider = provider
        self._cancelled = threading.Event()
        self._engine: engine_pb2_grpc.EngineStub | None = None
        self._connect(engine)

    def _connect(self, engine: str | None) -> None:
        if engine:
            self._engine = engine_pb2_grpc.EngineStub(grpc.insecure_channel(engine))

    def _warn(self, urn: str, message: str) -> None:
        if self._engine is None:
            return
        try:
            self._engine.Log(
                engine_pb2.LogRequest(severity=engine_pb2.WARNING, message=message, urn=urn), timeout=5
            )
        except grpc.RpcError as error:
            _LOG.debug("the engine took no warning", exc_info=error)

    def _call(self, request: Any, *, preview: bool = False) -> Call:
        return Call(
            urn=request.urn,
            name=request.urn.rpartition("::")[2],
            token=request.urn.split("::")[2].rpartition("$")[2],
            preview=preview,
            timeout=getattr(request, "timeout", 0),
            random_seed=getattr(request, "randomSeed", b""),
            ignored=frozenset(
                re.split(r"[.\[]", path, maxsplit=1)[0] for path in getattr(request, "ignoreChanges", ())
            ),
            cancelled=self._cancelled,
            warn=functools.partial(self._warn, request.urn),
        )

    @_answered
    def Handshake(  # noqa: D102, N802 - the protocol's names
        self, request: provider_pb2.ProviderHandshakeRequest
    ) -> provider_pb2.ProviderHandshakeResponse:
        self._connect(request.engine_address)
        return provider_pb2.ProviderHandshakeResponse(accept_secrets=True)

    @_answered
    def Attach(self, request: plugin_pb2.PluginAttach) -> Empty:  # noqa: D102, N802
        self._connect(request.address)
        return Empty()

    @_answered
    def GetPluginInfo(self, _request: Empty) -> plugin_pb2.PluginInfo:  # noqa: D102, N802
        return plugin_pb2.PluginInfo(version=self.provider.version)

    @_answered
    def GetSchema(  # noqa: D102, N802
        self, _request: provider_pb2.GetSchemaRequest
    ) -> provider_pb2.GetSchemaResponse:
        name, version = self.provider.name, self.provider.version
        return provider_pb2.GetSchemaResponse(schema=f'{{"name": "{name}", "version": "{version}"}}')

    @_answered
    def Cancel(self, _request: Empty) -> Empty:  # noqa: D102, N802
        self._cancelled.set()
        return Empty()

    @_answered
    def CheckConfig(self, request: provider_pb2.CheckRequest) -> provider_pb2.CheckResponse:  # noqa: D102, N802
        marked = decode(request.news)
        config, failures = self.provider.check_config(self._call(request), plain(marked))
        return _checked(mark_secrets(config, marked), failures)

    @_answered
    def DiffConfig(self, request: provider_pb2.DiffRequest) -> provider_pb2.DiffResponse:  # noqa: D102, N802
        old = plain(decode(request.old_inputs))
        return _difference(self.provider.diff_config(old, plain(decode(request.news))))

    @_answered
    def Configure(  # noqa: D102, N802
        self, request: provider_pb2.ConfigureRequest
    ) -> provider_pb2.ConfigureResponse:
        self.provider.configure(plain(decode(request.args)))
        return provider_pb2.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    @_answered
    def Check(self, request: provider_pb2.CheckRequest) -> provider_pb2.CheckResponse:  # noqa: D102, N802
        call = self._call(request)
        marked = decode(request.news)
        old = plain(decode(request.olds))
        inputs, failures = self.provider.resource(call.token).check(call, old, plain(marked))
        return _checked(mark_secrets(inputs, marked), failures)

    @_answered
    def Diff(self, request: provider_pb2.DiffRequest) -> provider_pb2.DiffResponse:  # noqa: D102, N802
        call = self._call(request)
        old = State(plain(decode(request.old_inputs)), plain(decode(request.olds)))
        new = plain(decode(request.news))
        return _difference(self.provider.resource(call.token).diff(call, request.id, old, new))

    @_answered
    def Create(self, request: provider_pb2.CreateRequest) -> provider_pb2.CreateResponse:  # noqa: D102, N802
        call = self._call(request, preview=request.preview)
        marked = decode(request.properties)
        with self._marking(call.token, marked) as mark:
            id, outputs = self.provider.resource(call.token).create(call, plain(marked))
            return provider_pb2.CreateResponse(id=id, properties=encode(mark(outputs)))

    @_answered
    def Read(self, request: provider_pb2.ReadRequest) -> provider_pb2.ReadResponse:  # noqa: D102, N802
        call = self._call(request)
        inputs, outputs = decode(request.inputs), decode(request.properties)
        with self._marking(call.token, inputs, outputs) as mark:
            state = State(plain(inputs), plain(outputs))
            found = self.provider.resource(call.token).read(call, request.id, state)
            if found is None:
                return provider_pb2.ReadResponse()
            return provider_pb2.ReadResponse(
                # What is imported under a longer name (`ID@ZONE`) goes by its own id from then on.
                id=found.outputs.get("id", request.id),
                inputs=encode(mark(found.inputs)),
                properties=encode(mark(found.outputs)),
            )

    @_answered
    def Update(self, request: provider_pb2.UpdateRequest) -> provider_pb2.UpdateResponse:  # noqa: D102, N802
        call = self._call(request, preview=request.preview)
        marked, old_inputs, old_outputs = (
            decode(request.news),
            decode(request.old_inputs),
            decode(request.olds),
        )
        with self._marking(call.token, marked) as mark:
            old = State(plain(old_inputs), plain(old_outputs))
            outputs = self.provider.resource(call.token).update(call, request.id, old, plain(marked))
            return provider_pb2.UpdateResponse(properties=encode(mark(outputs)))

    @_answered
    def Delete(self, request: provider_pb2.DeleteRequest) -> Empty:  # noqa: D102, N802
        call = self._call(request)
        state = State(plain(decode(request.old_inputs)), plain(decode(request.properties)))
        self.provider.resource(call.token).delete(call, request.id, state)
        return Empty()

    @_answered
    def Invoke(self, request: provider_pb2.InvokeRequest) -> provider_pb2.InvokeResponse:  # noqa: D102, N802
        marked = decode(request.args)
        call = Call(urn="", name="", token=request.tok, preview=request.preview, cancelled=self._cancelled)
        return provider_pb2.InvokeResponse(
            **{"return": encode(self.provider.invoke(call, request.tok, plain(marked)))}
        )

    @_answered
    def Construct(  # noqa: D102, N802
        self, request: provider_pb2.ConstructRequest
    ) -> provider_pb2.ConstructResponse:
        name = self.provider.name
        raise ProviderError(
            f"Unknown component type '{request.type}': the stand-in for {name} makes no components. Put the "
            f"official pulumi-resource-{name} on PATH."
        )

    def _marking(self, token: str, *likes: Properties) -> "_Marking":
        return _Marking(self.provider.resource(token).secret_outputs, likes)


class _Marking:
    """Puts the secret markers back, on outputs and on what an `InitializationError` carries."""

    def __init__(self, always: frozenset[str], likes: tuple[Properties, ...]) -> None:
        self._always = always
        self._likes = likes

    def __enter__(self) -> Callable[[Properties], Properties]:
        return self._mark

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, InitializationError):
            error.inputs = self._mark(error.inputs)
            error.outputs = self._mark(error.outputs)

    def _mark(self, properties: Properties) -> Properties:
        marked = {
            name: Secret(plain(value)) if name in self._always and value is not None else value
            for name, value in properties.items()
        }
        for like in self._likes:
            marked = mark_secrets(marked, like)
        return marked


def _checked(inputs: Properties, failures: list[Failure]) -> provider_pb2.CheckResponse:
    return provider_pb2.CheckResponse(
        inputs=encode(inputs),
        failures=[
            provider_pb2.CheckFailure(property=failure.property, reason=failure.reason)
            for failure in failures
        ],
    )


def _difference(diff: Diff) -> provider_pb2.DiffResponse:
    response = provider_pb2.DiffResponse(
        changes=provider_pb2.DiffResponse.DIFF_SOME if diff.changes else provider_pb2.DiffResponse.DIFF_NONE,
        deleteBeforeReplace=diff.delete_before_replace,
        hasDetailedDiff=True,
        diffs=sorted({str(path[0]) for path in diff.changes}),
        replaces=sorted({path_text(path) for path in diff.replaces}),
    )
    for path, kind in diff.changes.items():
        response.detailedDiff[path_text(path)].kind = _KINDS[kind, path in diff.replaces]
        response.detailedDiff[path_text(path)].inputDiff = True
    return response
