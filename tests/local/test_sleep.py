"""What `status` says of sleep, with what the suspender and the gateway write in a real Redis."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from rich.console import Console

from local import sleep, supervisor
from local.servers import redis as server


@pytest.fixture(scope="module")
def notes(console: Console) -> "Iterator[redis.Redis]":
    server.prepare()
    [service] = server.services()
    supervisor.start(service, console)
    with redis.Redis.from_url(server.environment()["REDIS_URL"]) as client:
        yield client
    supervisor.stop(service.name)


def tenant(identifier: str, status: str, served_by: str = "machine", state: str = "active") -> dict[str, Any]:
    return {"id": identifier, "served_by": served_by, "state": state, "status": status, "since": 5.0}


def told(*tenants: dict[str, Any]) -> dict[str, tuple[str, str]]:
    explained, trouble = sleep.explain(tenants)
    assert not trouble
    return {one["id"]: (one["sleep"], one["reason"]) for one in explained}


def verdict(decision: str, reason: str) -> dict[Any, Any]:
    return {"decision": decision, "reason": reason, "at": 1_700_000_000.5}


def test_the_reason_is_the_suspenders(notes: "redis.Redis") -> None:
    notes.hset("suspension:acme:verdict", mapping=verdict("awake", "lease `job-42` until 14:05 UTC"))
    notes.hset("suspension:bolt:verdict", mapping=verdict("suspended", "idle 17 min"))
    notes.hset("suspension:crow:verdict", mapping=verdict("left", "no gateway reports activity"))

    assert told(tenant("acme", "Running"), tenant("bolt", "Stopped"), tenant("crow", "Running")) == {
        "acme": ("awake", "lease `job-42` until 14:05 UTC"),
        "bolt": ("asleep", "idle 17 min"),
        "crow": ("awake", "left running: no gateway reports activity"),
    }


def test_a_verdict_from_before_the_machine_changed_is_not_told(notes: "redis.Redis") -> None:
    notes.hset("suspension:dodo:verdict", mapping=verdict("suspended", "idle 17 min"))
    notes.hset("suspension:emu:verdict", mapping=verdict("awake", "young (started 40 s ago)"))

    assert told(tenant("dodo", "Running"), tenant("emu", "Stopped"), tenant("fox", "Starting")) == {
        "dodo": ("awake", "started since the last sweep"),
        "emu": ("asleep", "not stopped by the suspender"),
        "fox": ("waking", ""),
    }


def test_what_redis_keeps_of_one_tenant_hides_no_other(notes: "redis.Redis") -> None:
    notes.set("suspension:lynx:verdict", "of another type")
    notes.hset("suspension:mole:verdict", mapping={"decision": "left"})
    notes.hset("suspension:newt:verdict", mapping=verdict("awake", "request 3 s ago"))
    notes.hset("activity:newt:wake", mapping={"seconds": "soon", "boot": 2.5})

    awake = [tenant(name, "Running") for name in ("lynx", "mole", "newt")]
    reasons = told(*awake)
    assert reasons["newt"] == ("awake", "request 3 s ago")
    for odd in ("lynx", "mole"):
        assert reasons[odd][1].startswith("left running: its last verdict cannot be read: ")
    assert [one["last_wake"] for one in sleep.explain(awake)[0]] == [None, None, {"boot": 2.5}]


def test_what_is_no_machine_or_not_active_needs_no_sweep(notes: "redis.Redis") -> None:
    assert told(
        tenant("goat", "Available", "deployment"),
        tenant("hare", "NotServed", "shared runtime", "suspended"),
        tenant("ibis", "Stopped", state="offboarding"),
        tenant("jay", "CrashLoopBackOff"),
    ) == {
        "goat": ("awake", "never sleeps: served by a deployment"),
        "hare": ("asleep", "suspended in the roster"),
        "ibis": ("asleep", "leaves"),
        "jay": ("CrashLoopBackOff", ""),
    }


def test_the_last_wake_is_the_gateways(notes: "redis.Redis") -> None:
    notes.hset("activity:acme:wake", mapping={"at": 1_700_000_000.5, "seconds": 3.25, "boot": 2.5})

    [acme, bolt], _ = sleep.explain([tenant("acme", "Running"), tenant("kiwi", "Running")])

    assert acme["last_wake"] == {"at": 1_700_000_000.5, "seconds": 3.25, "boot": 2.5}
    assert bolt["last_wake"] is None


def test_without_redis_the_rest_is_told(notes: "redis.Redis") -> None:
    [service] = server.services()
    supervisor.stop(service.name)
    try:
        [acme], trouble = sleep.explain([tenant("acme", "Running")])
    finally:
        supervisor.start(service, Console(stderr=True))

    assert (acme["sleep"], acme["reason"], acme["last_wake"]) == ("awake", "not known", None)
    assert trouble.startswith("Redis does not answer (")
    assert trouble.endswith("`make up` starts Redis again.")
