"""Which tenants are awake and why, as the idle suspender and the gateway leave it in Redis."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from redis.asyncio import Redis

from local.machines import Tenant
from local.servers import redis as server
from services.activity.connection import UNREACHABLE
from services.activity.store import Activity, Verdict

_STATES = {
    **dict.fromkeys(("Running", "Available"), "awake"),
    **dict.fromkeys(("Stopped", "NotServed"), "asleep"),
    **dict.fromkeys(("Starting", "Provisioning", "WaitingForVolumeBinding"), "waking"),
    **dict.fromkeys(("Stopping", "Terminating"), "falling asleep"),
}
_BY_ROSTER = {"suspended": "suspended in the roster", "moving": "moves", "offboarding": "leaves"}
_SECONDS = 3.0


def explain(observed: Sequence[Tenant]) -> tuple[list[dict[str, Any]], str]:
    """The tenants with `sleep` (awake, asleep, …), the `reason` and the `last_wake`; and what is not known.

    `last_wake` is what the gateway noted of it, by name, in seconds.
    """
    machines = [tenant for tenant in observed if tenant["served_by"] == "machine"]
    notes: tuple[dict[str, Verdict] | None, dict[str, dict[str, float]]] = (None, {})
    trouble = ""
    try:
        notes = asyncio.run(_notes([tenant["id"] for tenant in machines]))
    except UNREACHABLE as error:
        trouble = (
            f"Redis does not answer ({error}), so why a machine is awake or asleep, and when it woke, is not "
            "known; nothing is suspended meanwhile. `make up` starts Redis again."
        )
    return [_explained(tenant, *notes) for tenant in observed], trouble


async def _notes(tenants: Sequence[str]) -> tuple[dict[str, Verdict], dict[str, dict[str, float]]]:
    """Each tenant's verdict and last wake."""
    async with Redis.from_url(
        server.environment()["REDIS_URL"],
        decode_responses=True,
        encoding_errors="replace",
        socket_timeout=_SECONDS,
        socket_connect_timeout=_SECONDS,
    ) as client:
        activity = Activity(client)
        return await activity.verdicts(tenants), await activity.wakes(tenants)


def _explained(
    tenant: Tenant, verdicts: Mapping[str, Verdict] | None, wakes: Mapping[str, dict[str, float]]
) -> dict[str, Any]:
    sleep = _STATES.get(tenant["status"], str(tenant["status"]))
    swept = "not known" if verdicts is None else _of_the_sweep(sleep, verdicts.get(tenant["id"]))
    return {
        **tenant,
        "sleep": sleep,
        "reason": _of_the_roster(tenant) or swept,
        "last_wake": wakes.get(tenant["id"]),
    }


def _of_the_roster(tenant: Tenant) -> str:
    if tenant["state"] != "active":
        return _BY_ROSTER[tenant["state"]]
    served_by = tenant["served_by"]
    return "" if served_by == "machine" else f"never sleeps: served by a {served_by}"


def _of_the_sweep(sleep: str, verdict: Verdict | None) -> str:
    """What the suspender said last, unless the machine has been started or stopped since."""
    if verdict and (verdict.decision == "suspended") == (sleep in ("asleep", "falling asleep")):
        return verdict.told()
    return {"awake": "started since the last sweep", "asleep": "not stopped by the suspender"}.get(sleep, "")
