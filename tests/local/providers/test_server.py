"""The protocol as the engine speaks it, over gRPC, with a small provider behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
from google.protobuf import struct_pb2  # type: ignore[import-untyped]
from google.protobuf.empty_pb2 import Empty  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc

from local.paths import ROOT
from local.providers import server
from local.providers.provider import (
    Call,
    Failure,
    InitializationError,
    Provider,
    ProviderError,
    Resource,
    State,
    by_token,
)
from local.providers.values import (
    UNKNOWN,
    Properties,
    Secret,
    decode,
    differences,
    encode,
    mark_secrets,
    path_text,
    plain,
)

TOKEN = "toy:index/thing:Thing"
URN = f"urn:pulumi:s::p::a:b:Parent${TOKEN}::one"


class Thing(Resource):
    replace_on = frozenset({"name", "inner.fixed"})
    delete_before_replace = True
    secret_outputs = frozenset({"key"})

    def check(self, call: Call, old: Properties, new: Properties) -> tuple[Properties, list[Failure]]:
        return {"name": call.name, **new}, [Failure("size", "too big")] if new.get("size") == 9 else []

    def create(self, call: Call, inputs: Properties) -> tuple[str, Properties]:
        if call.preview:
            return "", {**inputs, "key": UNKNOWN}
        match inputs["name"]:
            case "refused":
                raise ProviderError("the server said no")
            case "half":
                raise InitializationError(["not ready", "no pod"], id="half", inputs=inputs, outputs=inputs)
            case "bug":
                raise KeyError("oops")
        return "id", {**inputs, "key": "k"}

    def read(self, call: Call, id: str, state: State) -> State | None:
        return None if id == "gone" else State(state.inputs, {**state.outputs, "key": "k"})

    def update(self, call: Call, id: str, old: State, inputs: Properties) -> Properties:
        return {**old.outputs, **inputs}

    def delete(self, call: Call, id: str, state: State) -> None:
        return None


class Toy(Provider):
    name = "toy"
    version = "1.2.3"

    def check_config(self, call: Call, config: Properties) -> tuple[Properties, list[Failure]]:
        return config, []

    def configure(self, config: Properties) -> None:
        return None

    def resource(self, token: str) -> Resource:
        return by_token(self.name, {TOKEN: Thing()}, token)


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    running, port = server.start(Toy())
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield provider_pb2_grpc.ResourceProviderStub(channel)
    running.stop(None)


def wire(**properties: Any) -> struct_pb2.Struct:
    return encode(properties)


def create(engine: Any, *, preview: bool = False, **properties: Any) -> Properties:
    request = provider_pb2.CreateRequest(urn=URN, properties=wire(**properties), preview=preview)
    return decode(engine.Create(request).properties)


scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.just(UNKNOWN)
some = scalars.filter(lambda value: value is not None)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1), some, max_size=3),
    max_leaves=6,
)
quick = settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow], deadline=None)


@quick
@given(st.dictionaries(st.text(min_size=1), st.lists(values, max_size=3), max_size=3))
def test_values_survive_the_wire(properties: Properties) -> None:
    assert decode(encode(properties)) == properties


def test_secrets_and_unknowns_survive_the_wire() -> None:
    properties = {"a": Secret({"b": [1, UNKNOWN]}), "c": [Secret("x")]}
    assert decode(encode(properties)) == properties


def test_an_output_value_without_a_value_is_unknown() -> None:
    signature = {"4dabf18193072939515e22adb298388d": "d0e6a833031e9bbcd3f4e8bde6ca49a4"}
    struct = encode({"a": signature, "b": {**signature, "value": 1, "secret": True}})
    assert decode(struct) == {"a": UNKNOWN, "b": Secret(1)}


@quick
@given(values)
def test_marking_loses_nothing(value: Any) -> None:
    assert plain(mark_secrets(value, {"x": Secret(1)})) == value


def test_a_secret_does_not_show() -> None:
    assert "hunter2" not in repr(Secret("hunter2"))


def test_a_list_with_a_secret_is_secret_as_its_elements_may_move() -> None:
    assert mark_secrets({"a": ["x", "y"]}, {"a": ["y", Secret("x")]}) == {"a": Secret(["x", "y"])}


def test_differences_name_the_place() -> None:
    found = dict(
        differences({"a": 1, "b": [1, {"c": 2}], "d": True}, {"b": [1, {"c": 3}, 4], "d": 1, "e": 0})
    )
    assert {path_text(path): kind for path, kind in found.items()} == {
        "a": "delete",
        "b[1].c": "update",
        "b[2]": "add",
        "d": "update",
        "e": "add",
    }


def test_a_path_quotes_what_the_engine_would_misread() -> None:
    assert path_text(("labels", "app.kubernetes.io/name", 0)) == 'labels["app.kubernetes.io/name"][0]'


def test_what_came_secret_comes_back_secret(engine: Any) -> None:
    outputs = create(engine, name="n", password=Secret("p"), open="o")
    assert outputs == {"name": "n", "password": Secret("p"), "open": "o", "key": Secret("k")}


def test_a_preview_keeps_unknowns(engine: Any) -> None:
    assert create(engine, preview=True, name=UNKNOWN) == {"name": UNKNOWN, "key": Secret(UNKNOWN)}


def test_check_reports_the_property(engine: Any) -> None:
    answer = engine.Check(provider_pb2.CheckRequest(urn=URN, news=wire(size=9)))
    assert [(failure.property, failure.reason) for failure in answer.failures] == [("size", "too big")]
    assert decode(answer.inputs)["name"] == "one"


def test_diff_is_detailed(engine: Any) -> None:
    old = wire(name="a", inner={"fixed": 1, "free": 1})
    new = wire(name="a", inner={"fixed": 2, "free": 2}, more=1)
    answer = engine.Diff(provider_pb2.DiffRequest(id="i", urn=URN, old_inputs=old, olds=old, news=new))
    kinds = {path: entry.kind for path, entry in answer.detailedDiff.items()}
    assert kinds == {
        "inner.fixed": provider_pb2.PropertyDiff.UPDATE_REPLACE,
        "inner.free": provider_pb2.PropertyDiff.UPDATE,
        "more": provider_pb2.PropertyDiff.ADD,
    }
    assert list(answer.replaces) == ["inner.fixed"]
    assert answer.deleteBeforeReplace


def test_the_same_is_no_change(engine: Any) -> None:
    same = wire(name="a", list=[1, 2])
    answer = engine.Diff(provider_pb2.DiffRequest(id="i", urn=URN, old_inputs=same, olds=same, news=same))
    assert answer.changes == provider_pb2.DiffResponse.DIFF_NONE


def test_what_is_gone_reads_as_nothing(engine: Any) -> None:
    assert engine.Read(provider_pb2.ReadRequest(id="gone", urn=URN)).id == ""


def test_a_refusal_is_one_line(engine: Any) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        create(engine, name="refused")
    assert refused.value.details() == "the server said no"


def test_a_bug_is_one_line_without_a_traceback(engine: Any) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        create(engine, name="bug")
    assert "KeyError" in failed.value.details()
    assert "\n" not in failed.value.details()


def test_an_unknown_type_is_refused(engine: Any) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        engine.Check(provider_pb2.CheckRequest(urn="urn:pulumi:s::p::toy:index/x:X::one"))
    assert "Unknown resource type 'toy:index/x:X'" in refused.value.details()


def test_what_exists_but_is_not_ready_is_kept_with_its_secrets(engine: Any) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        create(engine, name="half", password=Secret("p"))
    status = Status()
    status.ParseFromString(dict(failed.value.trailing_metadata())["grpc-status-details-bin"])
    detail = provider_pb2.ErrorResourceInitFailed()
    assert status.details[0].Unpack(detail)
    assert (detail.id, list(detail.reasons)) == ("half", ["not ready", "no pod"])
    assert decode(detail.properties)["password"] == Secret("p")


def test_it_tells_its_version(engine: Any) -> None:
    assert engine.GetPluginInfo(Empty()).version == "1.2.3"


def test_it_ends_when_the_engine_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "engine.py"
    script.write_text(
        textwrap.dedent("""
        import subprocess, sys, time
        command = [sys.executable, "-m", "local.providers.kubernetes"]
        plugin = subprocess.Popen(command, stdout=subprocess.PIPE)
        plugin.stdout.readline()
        print(plugin.pid, flush=True)
        time.sleep(60)
        """)
    )
    with subprocess.Popen([sys.executable, script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as engine:
        assert engine.stdout is not None
        plugin = int(engine.stdout.readline())
        engine.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while _is_running(plugin):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
