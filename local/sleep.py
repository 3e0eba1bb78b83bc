"""Which tenants are awake and why, as the idle suspender and the gateway leave it in Redis."""

from collections.abc import Mapping, Sequence
from typing import Any

import redis

from local.machines import Tenant
from local.servers import redis as server

_STATES = {
    **dict.fromkeys(("Running", "Available"), "awake"),
    **dict.fromkeys(("Stopped", "NotServed"), "asleep"),
    **dict.fromkeys(("Starting", "Provisioning", "WaitingForVolumeBinding"), "waking"),
    **dict.fromkeys(("Stopping", "Terminating"), "falling asleep"),
}
_BY_ROSTER = {"suspended": "suspended in the roster", "offboarding": "leaves"}
_PREFIXES = {"left": "left running: ", "failed": "not suspended: "}
_SECONDS = 3.0


def explain(observed: Sequence[Tenant]) -> tuple[list[dict[str, Any]], str]:
    """The tenants with `sleep` (awake, asleep, …), the `reason` and the `last_wake`; and what is not known.

    `last_wake` is what the gateway noted of it, by name, in seconds.
    """
    machines = [tenant for tenant in observed if tenant["served_by"] == "machine"]
    trouble = ""
    try:
        notes = _notes([tenant["id"] for tenant in machines])
    except redis.RedisError as error:
        notes = {}
        trouble = (
            f"Redis does not answer ({error}), so why a machine is awake or asleep, and when it woke, is not "
            "known; nothing is suspended meanwhile. `make up` starts Redis again."
        )
    return [_explained(tenant, notes.get(tenant["id"])) for tenant in observed], trouble


def _notes(tenants: Sequence[str]) -> dict[str, tuple[dict[str, str], dict[str, str]]]:
    """Each tenant's verdict and last wake."""
    client = redis.Redis.from_url(
        server.environment()["REDIS_URL"],
        decode_responses=True,
        socket_timeout=_SECONDS,
        socket_connect_timeout=_SECONDS,
    )
    with client, client.pipeline(transaction=False) as pipeline:
        for tenant in tenants:
            pipeline.hgetall(f"suspension:{tenant}:verdict")
            pipeline.hgetall(f"activity:{tenant}:wake")
        answers = pipeline.execute()
    return dict(zip(tenants, zip(answers[::2], answers[1::2], strict=True), strict=True))


def _explained(tenant: Tenant, notes: tuple[dict[str, str], dict[str, str]] | None) -> dict[str, Any]:
    sleep = _STATES.get(tenant["status"], str(tenant["status"]))
    verdict, wake = notes or ({}, {})
    return {
        **tenant,
        "sleep": sleep,
        "reason": _of_the_roster(tenant) or (_of_the_sweep(sleep, verdict) if notes else "not known"),
        "last_wake": {name: float(value) for name, value in wake.items()} or None,
    }


def _of_the_roster(tenant: Tenant) -> str:
    if tenant["state"] != "active":
        return _BY_ROSTER[tenant["state"]]
    served_by = tenant["served_by"]
    return "" if served_by == "machine" else f"never sleeps: served by a {served_by}"


def _of_the_sweep(sleep: str, verdict: Mapping[str, str]) -> str:
    """What the suspender said last, unless the machine has been started or stopped since."""
    suspended = verdict.get("decision") == "suspended"
    if verdict and suspended == (sleep in ("asleep", "falling asleep")):
        return f"{_PREFIXES.get(verdict['decision'], '')}{verdict['reason']}"
    return {"awake": "started since the last sweep", "asleep": "not stopped by the suspender"}.get(sleep, "")
