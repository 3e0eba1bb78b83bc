"""One sweep over all tenants' machines: judge, claim, stop, and say why."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus

from redis.exceptions import ResponseError

from services.activity.store import Activity, Decision, Published
from services.idle_suspender.machines import TENANT, Object, Running, running
from services.idle_suspender.reasons import duration, explain
from services.kube import UNREACHABLE, Api, ApiError

log = logging.getLogger(__name__)

_PAGE = 500
_AT_ONCE = 16
_SEND_SECONDS = 5
"""A stop is sent within this of its claim or not at all: the claim must outlive all that may become of it."""
_CLOCKS_DIFFER_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    machine: Running
    decision: Decision
    reason: str


class Sweep:
    """A sweep; make one for each."""

    def __init__(self, api: Api, activity: Activity, clock: Callable[[], float] = time.time) -> None:
        """Stop machines through `api`; `clock` is this computer's, to hold Redis' against."""
        self._api = api
        self._activity = activity
        self._clock = clock
        self._requests = asyncio.Semaphore(_AT_ONCE)

    async def run(self) -> dict[str, int]:
        """Sweep once; return how many machines got which verdict.

        Raises `connection.UNREACHABLE` for Redis and `kube.UNREACHABLE` or `ApiError` for the API server;
        machines not got to by then run on.
        """
        begun, now = time.monotonic(), await self._activity.now()
        doubt = await self._doubt(now)
        if doubt:
            log.warning("left all machines running: %s", doubt)
        counts: dict[str, int] = {"awake": 0, "suspended": 0, "left": 0, "failed": 0}
        async for page in self._pages():
            machines = [found for each in page if (found := running(each))]
            verdicts = await self._judge(machines, doubt)
            await self._publish(verdicts)
            for verdict in verdicts:
                counts[verdict.decision] += 1
        await self._activity.record_sweep({"at": now, "seconds": time.monotonic() - begun, **counts})
        return counts

    async def _doubt(self, now: float) -> str | None:
        """Why no clock can be relied upon."""
        if abs(off := now - self._clock()) > _CLOCKS_DIFFER_SECONDS:
            return f"Redis' clock and this computer's differ by {duration(abs(off))}"
        sweep = await self._activity.last_sweep()
        if sweep is None:
            return (
                "what Redis keeps of the last sweep cannot be read, so its clock may have jumped back since"
            )
        last = sweep.get("at", 0)
        if last > now + 1:
            return f"Redis' clock has jumped back by {duration(last - now)} or more since the last sweep"
        return None

    async def _pages(self) -> AsyncIterator[list[Object]]:
        query = {"labelSelector": TENANT, "limit": str(_PAGE)}
        while True:
            answer = await self._api.request("GET", "/apis/kubevirt.io/v1/virtualmachines", query=query)
            yield answer["items"]
            if not (more := answer["metadata"].get("continue")):
                return
            query["continue"] = more

    async def _judge(self, machines: list[Running], doubt: str | None) -> list[_Verdict]:
        left = [(machine, machine.left or doubt) for machine in machines]
        verdicts = [_Verdict(machine=each, decision="left", reason=why) for each, why in left if why]
        judged = [machine for machine, why in left if not why]
        idle = []
        for machine, found in zip(
            judged, await self._activity.judge([each.judged() for each in judged]), strict=True
        ):
            if found.kind == "idle":
                idle.append(machine)
            else:
                decision, reason = explain(found)
                verdicts.append(_Verdict(machine=machine, decision=decision, reason=reason))
        # What has begun is brought to its end, whatever becomes of the others.
        results = await asyncio.gather(*(self._suspend(machine) for machine in idle), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
            verdicts.append(result)
        return verdicts

    async def _suspend(self, machine: Running) -> _Verdict:
        async with self._requests:
            begun, by = time.monotonic(), uuid.uuid4().hex
            try:
                found = await self._activity.claim(machine.judged(), by)
            except ResponseError as error:
                return _Verdict(
                    machine=machine, decision="left", reason=f"Redis refuses to claim it: {error}"
                )
            decision, reason = explain(found)
            if found.kind == "idle":
                decision, reason = await self._stop(machine, by, begun, reason)
            return _Verdict(machine=machine, decision=decision, reason=reason)

    async def _stop(self, machine: Running, by: str, begun: float, idle: str) -> tuple[Decision, str]:
        """Stop a claimed machine; if nobody knows whether the stop will yet arrive, let the claim lapse."""
        if time.monotonic() - begun > _SEND_SECONDS:
            await self._activity.withdraw(machine.tenant, by)
            return "left", f"{idle}, but claiming it took too long"
        path = (
            f"/apis/subresources.kubevirt.io/v1/namespaces/{machine.namespace}/virtualmachines/{machine.name}"
        )
        try:
            await self._api.request("PUT", f"{path}/stop")
        except ApiError as error:
            if error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                await self._activity.withdraw(machine.tenant, by)
            return "failed", f"{idle}, but KubeVirt refuses to stop it: {error}"
        except UNREACHABLE as error:
            return "failed", f"{idle}, but KubeVirt does not answer: {error or 'timeout'}"
        await self._activity.sent(machine.tenant, by)
        return "suspended", idle

    async def _publish(self, verdicts: list[_Verdict]) -> None:
        decided = await self._activity.publish(
            [
                Published(tenant=each.machine.tenant, decision=each.decision, reason=each.reason)
                for each in verdicts
            ]
        )
        told = [
            verdict
            for verdict, before in zip(verdicts, decided, strict=True)
            if verdict.decision == "suspended" or (verdict.decision == "failed" and before != "failed")
        ]
        for verdict in told:
            tenant = verdict.machine.tenant
            log.info("%s %s: %s", tenant, verdict.decision, verdict.reason, extra={"tenant": tenant})
        await asyncio.gather(*(self._event(verdict) for verdict in told))

    async def _event(self, verdict: _Verdict) -> None:
        machine, failed = verdict.machine, verdict.decision == "failed"
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{machine.name}-", "namespace": machine.namespace},
            "type": "Warning" if failed else "Normal",
            "reason": "SuspendFailed" if failed else "Suspended",
            "message": verdict.reason,
            "source": {"component": "idle-suspender"},
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
            "involvedObject": {
                "apiVersion": "kubevirt.io/v1",
                "kind": "VirtualMachine",
                "namespace": machine.namespace,
                "name": machine.name,
                "uid": machine.uid,
            },
        }
        try:
            async with self._requests:
                await self._api.request("POST", f"/api/v1/namespaces/{machine.namespace}/events", event)
        except (ApiError, *UNREACHABLE) as error:
            about = {"tenant": machine.tenant}
            log.warning("%s: no event: %s", machine.tenant, error or "timeout", extra=about)
