"""The tour's steps, in order; each is bounded in time, and says what it sees."""

import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

import urllib3
from kubernetes.client.exceptions import ApiException
from rich.console import Console
from rich.text import Text

from local import sleep
from local.demo.machine import Machine, sweep
from local.demo.visitor import Answer, Visitor
from local.errors import LocalError
from local.machines import Tenant

_IDLE_SECONDS = 10
_STOP_SECONDS = 90.0
_WAKE_SECONDS = 150.0
_REPORTED_SECONDS = 15.0
_COUNTDOWN_SECONDS = 240.0
_NOTE_SECONDS = 5.0
_PAUSE = 0.1
_PHASES = ("queued", "start", "boot", "ready")
_HELLO = "/readyz"

Observe = Callable[[], Sequence[Tenant]]
Mint = Callable[[str], str]


def run(observe: Observe, mint: Mint, real_guests: bool, console: Console) -> None:
    """Show sleep and wake on the first tenant that has a machine. Raises LocalError if a step fails."""
    tenants = [tenant for tenant in observe() if tenant["state"] == "active"]
    chosen = next((tenant for tenant in tenants if tenant["served_by"] == "machine"), None)
    if chosen is None:
        raise LocalError(
            "demo: no active tenant has a machine, so there is nothing to put to sleep; add one with "
            "`make tenant` (ARGS=-h tells how), then `make up`."
        )
    try:
        _Tour(chosen["id"], observe, mint(chosen["id"]), real_guests, console).run()
        _the_others(tenants, mint, console)
    except (ApiException, urllib3.exceptions.HTTPError) as error:
        raise LocalError(
            f"demo: a server does not answer as it should ({error}), so the tour ends here, and what it had "
            "changed is put back; see `make status`."
        ) from error


class _Tour:
    def __init__(
        self, tenant: str, observe: Observe, token: str, real_guests: bool, console: Console
    ) -> None:
        self._tenant = tenant
        self._observe = observe
        self._machine = Machine(tenant)
        self._visitor = Visitor(tenant, token)
        self._real = real_guests
        self._console = console

    def run(self) -> None:
        asleep_before = self._machine.status() == "Stopped"
        try:
            self._fall_asleep()
            self._strangers_are_refused()
            self._a_browser_waits()
            self._a_program_is_held()
            self._idles_until_suspended()
            self._a_program_is_held()
        finally:
            if not asleep_before and self._machine.status() == "Stopped":
                self._machine.start()

    def _fall_asleep(self) -> None:
        _step(self._console, f"{self._tenant} sleeps")
        if self._machine.status() != "Stopped":
            self._say("An operator stops its machine; its workspace stays.")
            self._machine.stop()
        if not self._machine.wait_for("Stopped", _STOP_SECONDS):
            raise _failed(f"the machine of {self._tenant} is {self._machine.status()}, not Stopped")
        self._say("KubeVirt says: Stopped.")

    def _strangers_are_refused(self) -> None:
        _step(self._console, "A request without a token")
        answer = Visitor(self._tenant).call(_HELLO, 10)
        if answer is None or answer.status != HTTPStatus.UNAUTHORIZED:
            raise _failed(f"a request without a token is not refused with 401: {_brief(answer)}")
        self._say(f"{_brief(answer)}. Nobody is woken by a stranger: {self._machine.status()}.")

    def _a_browser_waits(self) -> None:
        _step(self._console, "A browser asks, with a token")
        answer = self._visitor.browse("/")
        if answer is None or "text/html" not in answer.headers.get("Content-Type", ""):
            raise _failed(f"a browser gets no page: {_brief(answer)}")
        again = answer.headers.get("Refresh") or answer.headers.get("Retry-After", "a moment")
        self._say(f"{_brief(answer)}: “{answer.title}”. It asks again after {again} by itself.")

    def _a_program_is_held(self) -> None:
        _step(self._console, "A program asks, and is held until the machine is ready")
        before, began = self._now()["last_wake"], time.monotonic()
        answer = self._visitor.call(_HELLO, _WAKE_SECONDS if self._real else _REPORTED_SECONDS)
        waited = time.monotonic() - began
        if not self._real:
            if not self._machine.wait_for("Running", _WAKE_SECONDS):
                raise _failed(f"the request did not wake {self._tenant}: it is {self._machine.status()}")
            self._say(
                f"KubeVirt says: Running. Guests are only reported here, so nothing answers in it; the "
                f"program {'was told so' if answer else 'gave up'} after {waited:.1f} s."
            )
            return
        if answer is None or answer.status != HTTPStatus.OK:
            raise _failed(f"after {waited:.0f} s the program has no answer of the agent's: {_brief(answer)}")
        self._say(f"{_brief(answer)}.")
        self._tell_phases(before)

    def _tell_phases(self, before: dict[str, float] | None) -> None:
        """Tell how long this wake took: the gateway notes it a moment after it has answered."""
        deadline = time.monotonic() + _NOTE_SECONDS
        while (wake := self._now()["last_wake"]) == before:
            if time.monotonic() > deadline:
                self._say("The gateway has noted no wake: it was not the one that started the machine.")
                return
            time.sleep(_PAUSE)
        phases = ", ".join(f"{name} {wake[name]:.2f} s" for name in _PHASES if name in wake)
        self._say(f"The wake took {wake.get('seconds', 0):.2f} s: {phases}.")

    def _idles_until_suspended(self) -> None:
        _step(self._console, f"{self._tenant} idles")
        self._say(
            f"For this tour its limit is {_IDLE_SECONDS} s, and the suspender is called again and again "
            "instead of each minute. A machine stays held for up to 30 s after its last request."
        )
        deadline = time.monotonic() + _COUNTDOWN_SECONDS
        with self._machine.idle_limit(_IDLE_SECONDS):
            while True:
                sweep()
                now = self._now()
                self._say(f"Swept: {now['reason']}.")
                if now["sleep"] in ("asleep", "falling asleep"):
                    break
                if time.monotonic() > deadline:
                    raise _failed(f"{self._tenant} is still awake after {_COUNTDOWN_SECONDS:.0f} s")
            if not self._machine.wait_for("Stopped", _STOP_SECONDS):
                raise _failed(f"the machine of {self._tenant} is {self._machine.status()}, not Stopped")
        self._say("KubeVirt says: Stopped. Its limit is again what the roster says.")

    def _now(self) -> dict[str, Any]:
        known, trouble = sleep.explain([tenant for tenant in self._observe() if tenant["id"] == self._tenant])
        if trouble:
            raise _failed(trouble)
        return known[0]

    def _say(self, text: str) -> None:
        _say(self._console, text)


def _the_others(tenants: Sequence[Tenant], mint: Mint, console: Console) -> None:
    """Those without a machine are there at once: a Deployment of their own, or the shared runtime."""
    _step(console, "Tenants without a machine never sleep")
    for tenant in tenants:
        if tenant["served_by"] == "machine":
            continue
        answer = Visitor(tenant["id"], mint(tenant["id"])).call(_HELLO, 10)
        if answer is None or answer.status != HTTPStatus.OK:
            raise _failed(f"{tenant['id']} does not answer: {_brief(answer)}")
        _say(console, f"{tenant['id']} ({tenant['served_by']}): {_brief(answer)}.")


def _step(console: Console, title: str) -> None:
    console.rule(Text(title, style="bold"), align="left")


def _say(console: Console, text: str) -> None:
    console.print(f"{time.strftime('%H:%M:%S')}  {text}")


def _brief(answer: Answer | None) -> str:
    if answer is None:
        return "no answer in time"
    status = HTTPStatus(answer.status)
    return f"{status.value} {status.phrase} after {answer.seconds:.2f} s"


def _failed(what: str) -> LocalError:
    return LocalError(
        f"demo: {what}, so the tour ends here, and what it had changed is put back. See `make status` and "
        "`make logs`; docs/operations.md tells what to look at."
    )
