"""The part that keeps a machine in use awake ends with the runtime, and the runtime with it."""

import pytest

from services.agent_runtime import __main__ as program
from services.agent_runtime import use
from services.agent_runtime.identity import NotReadyError
from services.agent_runtime.tenants import Tenant


class Ended(BaseException):
    """In place of the process' end."""


class Tenants:
    """A report that knows its tenant at the second attempt."""

    def __init__(self) -> None:
        self.asked = 0

    def only(self) -> Tenant:
        self.asked += 1
        if self.asked == 1:
            raise NotReadyError("identity.json: not there yet")
        found = object.__new__(Tenant)
        found.gateway = None  # type: ignore[assignment]
        return found


def test_a_report_that_fails_ends_the_runtime_and_one_that_cannot_begin_yet_is_begun_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def end(status: int) -> None:
        raise Ended(status)

    def report(_: object) -> None:
        raise ValueError("a line of /proc that nobody knows")

    monkeypatch.setattr(program, "_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr("os._exit", end)
    monkeypatch.setattr(use, "report", report)
    tenants = Tenants()
    with pytest.raises(Ended):
        program._report(tenants)  # type: ignore[arg-type]
    assert tenants.asked == 2
    told = capsys.readouterr().err
    assert "not there yet" in told
    assert "a line of /proc that nobody knows" in told
