"""The handover of a workspace: the machine runs for it alone, and only what is whole counts."""

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from infra.cluster.object_storage import s3_client
from infra.tenants import clients, handover
from infra.tenants.handover import HandoverProvider

_numbers = itertools.count()
KEY = "tenant_acme/handover.json"


@pytest.fixture
def props(s3_server: str) -> dict[str, Any]:
    where = {"endpoint": s3_server, "region": "ch-gva-2", "artifacts": f"handovers-{next(_numbers)}"}
    s3_client(s3_server, "ch-gva-2").create_bucket(Bucket=where["artifacts"])
    return {"tenant": "acme", "storage": where, "kubernetes": {}}


class Machine:
    """A machine that is switched on and off, and does what it is told when it is on."""

    def __init__(self, does: Callable[[], None]) -> None:
        self.does = does
        self.switched: list[bool] = []

    def switch(self, _cluster: Any, _tenant: str, *, on: bool) -> None:
        self.switched.append(on)
        if on:
            self.does()


def hand_over(props: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *said: Any, files: int = 0) -> Machine:
    """Have a machine hand `files` over that says `said`, one after the other."""
    client, bucket = s3_client(props["storage"]["endpoint"], "ch-gva-2"), props["storage"]["artifacts"]
    coming = list(said)

    def speak(*_: float) -> None:
        if coming:
            client.put_object(Bucket=bucket, Key=KEY, Body=json.dumps(coming.pop(0)).encode())

    def does() -> None:
        for number in range(files):
            client.put_object(Bucket=bucket, Key=f"tenant_acme/workspace/{number}", Body=b"12")
        client.put_object(Bucket=bucket, Key="tenant_acme/workspace/empty/", Body=b"")
        speak()

    machine = Machine(does)
    monkeypatch.setattr(handover, "_switch", machine.switch)
    monkeypatch.setattr(clients, "kubernetes", lambda _: None)
    monkeypatch.setattr("infra.tenants.handover.time.sleep", speak)
    HandoverProvider().create(props)
    return machine


def done(files: int) -> dict[str, Any]:
    return {"state": "done", "files": files, "bytes": 2 * files}


def test_the_machine_is_off_before_and_after(props: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    at_work = {"state": "at work", "files": 1, "bytes": 2}

    assert hand_over(props, monkeypatch, at_work, done(3), files=3).switched == [False, True, False]


def test_what_an_earlier_machine_said_does_not_count(
    props: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = props["storage"]
    s3_client(where["endpoint"], where["region"]).put_object(
        Bucket=where["artifacts"], Key=KEY, Body=json.dumps(done(0)).encode()
    )
    monkeypatch.setattr(handover, "_SILENT_SECONDS", 0.0)

    with pytest.raises(RuntimeError, match="its machine has not ended in 0 s"):
        hand_over(props, monkeypatch)


def test_a_machine_that_hands_over_less_than_it_says_is_found_out(
    props: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match="handed over 3 files of 6 bytes, and the prefix holds 2 of 4"):
        hand_over(props, monkeypatch, done(3), files=2)


def test_a_handover_whose_update_failed_admits_no_other_tier(
    props: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError):
        hand_over(props, monkeypatch, done(3), files=2)

    reason = handover.not_handed_over("acme", props["storage"])
    assert reason
    assert "3 files of 6 bytes, and the prefix holds 2 of 4" in reason


def test_a_tenant_that_is_moving_no_more_has_no_manifest(
    props: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_over(props, monkeypatch, done(0))

    HandoverProvider().delete("acme", props)

    assert handover.not_handed_over("acme", props["storage"]) == "its machine has not handed it over"


def test_why_it_fails_is_told(props: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "_SILENT_SECONDS", 0.2)
    failing = [
        {"state": "at work", "failure": "there is no room", "at": str(number)} for number in range(9999)
    ]

    with pytest.raises(RuntimeError, match=r"has not ended in 0 s \(there is no room\); look at its console"):
        hand_over(props, monkeypatch, *failing)


def test_a_machine_that_says_the_same_of_its_work_again_and_again_is_alive(
    props: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "_SILENT_SECONDS", 0.2)
    walking = [{"state": "at work", "files": 0, "bytes": 0, "at": str(number)} for number in range(40)]

    hand_over(props, monkeypatch, *walking, done(0))


def test_a_preview_without_object_storage_plans_no_handover(
    props: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = {**props, "storage": {**props["storage"], "endpoint": "http://127.0.0.1:9"}}

    assert not HandoverProvider().diff("acme", nowhere, nowhere).changes
    with pytest.raises(RuntimeError, match="object storage cannot be asked"):
        HandoverProvider().update("acme", nowhere, nowhere)


def test_a_handover_is_done_again_if_its_files_are_no_longer_there(
    props: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, where = HandoverProvider(), props["storage"]
    hand_over(props, monkeypatch, done(3), files=3)
    assert not provider.diff("acme", props, props).changes
    assert handover.not_handed_over("acme", where) is None

    # As a machine does that serves again.
    s3_client(where["endpoint"], where["region"]).delete_object(Bucket=where["artifacts"], Key=KEY)

    assert provider.diff("acme", props, props).changes
    with pytest.raises(RuntimeError, match="has not ended"):
        monkeypatch.setattr(handover, "_SILENT_SECONDS", 0.0)
        provider.update("acme", props, props)


def test_what_is_in_the_way_is_named_with_what_to_do(
    props: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = {"state": "refused", "files": 7, "named": ["'venv/bin/python': is a symbolic link"]}

    with pytest.raises(RuntimeError) as raised:
        hand_over(props, monkeypatch, refused)
    told = str(raised.value)
    assert told.startswith(
        "acme: its workspace is not in the prefix, so it cannot move yet; its volume is as"
    )
    assert "'venv/bin/python': is a symbolic link; and 6 more." in told
    assert "have the tenant pack them into an archive" in told


@pytest.mark.parametrize(
    "odd", [[], 5, {"state": 7}, {"state": ["done"]}, {"state": "done", "files": True, "bytes": None}]
)
def test_a_manifest_that_the_tenant_made_up_is_no_traceback(
    odd: Any, props: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "_SILENT_SECONDS", 0.0)

    with pytest.raises(RuntimeError, match=r"^acme: its workspace is not in the prefix"):
        hand_over(props, monkeypatch, odd)


def test_a_machine_that_goes_on_for_ever_does_not_keep_the_update(
    props: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "_LONGEST_SECONDS", 0.2)
    at_work = [{"state": "at work", "files": number, "bytes": number} for number in range(10_000)]

    with pytest.raises(RuntimeError, match=r"has not ended after \d+ files of \d+ bytes in 0 s"):
        hand_over(props, monkeypatch, *at_work)


def test_what_a_tenant_calls_its_files_is_shown_as_it_is_and_not_for_ever(
    props: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["\x1b[2Jgone\nerror: all is well", "x" * 10_000, *map(str, range(1000))]

    with pytest.raises(RuntimeError) as raised:
        hand_over(props, monkeypatch, {"state": "refused", "files": 2000, "named": names})
    told = str(raised.value)
    assert "?[2Jgone?error: all is well" in told
    assert "and 1980 more" in told
    assert len(told) < 2000
