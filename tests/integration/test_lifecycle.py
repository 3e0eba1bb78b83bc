"""A tenant from its first day to its receipt: suspended, back again, leaving, gone; and never by mistake.

One story, told once: each step is an update, and the tests look at what was seen after it.
"""

import gzip
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml

from local.servers import postgres
from tests.integration.belongings import bucket_of, leave_data_everywhere, listed, traces
from tests.integration.conftest import Edit, Platform, edited_roster
from tests.integration.machines import virtual_machine, wait_for
from tests.integration.test_interruption import engine

pytestmark = pytest.mark.integration

LEAVER = {"id": "leaver", "name": "Leaver", "tier": "enterprise", "owner": "ops@leaver.example"}
MINNOW = {"id": "minnow", "name": "Minnow", "tier": "starter", "owner": "ops@minnow.example"}
BOTH = ("leaver", "minnow")
SAMPLE = ("acme", "bluebird", "corvus", "dufour")
REASON = "declined by letter of 2026-11-20"
TABLES = (
    *("agents", "agent_memory", "execution_logs"),
    *("sessions", "session_messages", "run_events"),
    "extra",
)
ROWS = "its rows in backups of the whole database"
LOGS = "its logs"
ACCOUNT = "how much it used, hour by hour"


@dataclass
class Seen:
    """Of both tenants at one moment."""

    machine: str
    logins: set[str]
    """Who may log in to Vault from Kubernetes."""
    rows: int
    files: int


@dataclass(frozen=True)
class Joining:
    """The updates that bring both: what the plan told, and the state before and after them."""

    plan: str
    spoilt: subprocess.CompletedProcess[str]
    """The first, for which somebody had left a table in the place of one of minnow's."""
    between: dict[str, dict[str, Any]]
    before: dict[str, dict[str, Any]]
    after: dict[str, dict[str, Any]]


@dataclass
class Story:
    """What was seen after each step."""

    joining: Joining
    seen: dict[str, Seen] = field(default_factory=dict)
    dropped: subprocess.CompletedProcess[str] | None = None
    unchanged: bool = False
    removed_until_killed: int = 0
    logins: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def story(platform: Platform) -> Iterator[Story]:
    """Two tenants with data everywhere come, sleep, come back, and leave, cut off in the middle of it."""
    with edited_roster(platform) as edit:
        story = Story(join(platform, edit))

        def step(name: str, leaver: dict[str, Any], minnow: dict[str, Any]) -> None:
            edit(lambda tenants: tenants.extend([{**LEAVER, **leaver}, {**MINNOW, **minnow}]))
            platform.up()
            story.seen[name] = look(platform)

        story.logins["leaver"] = leave_data_everywhere(platform, "leaver", machine=True)
        story.logins["minnow"] = leave_data_everywhere(platform, "minnow", machine=False)
        story.seen["active"] = look(platform)

        state = platform.state()
        edit(lambda _tenants: None)
        story.dropped = platform.run("up")
        story.unchanged = platform.state() == state

        step("suspended", {"state": "suspended"}, {"state": "suspended"})
        step("active again", {}, {})
        waived = {"backup": "waived", "reason": REASON}
        step(
            "offboarding",
            {"state": "offboarding", "offboarding": {"backup": "final"}},
            {"state": "offboarding", "offboarding": waived},
        )

        edit(lambda _tenants: None)
        story.removed_until_killed = kill_while_it_deletes(platform)
        platform.up()
        yield story


def join(platform: Platform, edit: Edit) -> Joining:
    before = platform.state()
    edit(lambda tenants: tenants.extend([LEAVER, MINNOW]))
    planned = platform.run("preview")
    assert planned.returncode == 0, planned.stderr
    with platform.database() as administrator:
        administrator.execute("CREATE SCHEMA tenant_minnow CREATE TABLE agents (mine int)")
    spoilt, between = platform.run("up"), platform.state()
    with platform.database() as administrator:
        administrator.execute("DROP TABLE tenant_minnow.agents")
    platform.up()
    return Joining(planned.stderr, spoilt, between, before, platform.state())


def look(platform: Platform) -> Seen:
    """What there is of the two now."""
    keys = [name for method in ("kubernetes", "jwt") for name in listed(platform, f"auth/{method}/role")]
    with platform.database() as administrator:
        counted = administrator.execute("select count(*) from tenant_leaver.agents").fetchone()
    objects = platform.s3().list_objects_v2(
        Bucket=bucket_of(platform, "artifacts"), Prefix="tenant_leaver/uploads/kept"
    )
    return Seen(
        machine=settled(platform),
        logins={name.removeprefix("tenant-") for name in keys} & set(BOTH),
        rows=counted[0] if counted else -1,
        files=objects["KeyCount"],
    )


def settled(platform: Platform) -> str:
    """The machine's state, once it is the one that its specification asks for."""
    halted = virtual_machine(platform, "leaver")["spec"]["runStrategy"] == "Halted"
    return wait_for(platform, "leaver", "Stopped" if halted else "Running")


def kill_while_it_deletes(platform: Platform) -> int:
    """Start `up`, and kill the engine without warning once it has deleted a few things; how many."""
    running, deleted = platform.start("up"), 0
    assert running.stdout is not None
    for line in running.stdout:
        deleted += " deleted" in line and ("leaver" in line or "minnow" in line)
        if deleted == 6:
            os.kill(engine(platform), signal.SIGKILL)
            break
    running.stdout.read()
    running.wait(timeout=300)
    return deleted


def receipt(platform: Platform, tenant: str) -> dict[str, Any]:
    """What the removal of `tenant` has left in the logs bucket."""
    answer = platform.s3().get_object(Bucket=bucket_of(platform, "logs"), Key=f"receipts/{tenant}.json")
    content: dict[str, Any] = json.loads(answer["Body"].read())
    return content


def test_new_tenants_are_all_that_the_preview_names_and_all_that_up_creates(story: Story) -> None:
    plan, before, after = story.joining.plan, story.joining.before, story.joining.after

    created = after.keys() - before.keys()
    assert re.search(rf"Changes: {len(created)} create, \d+ update, 0 replace, 0 delete,", plan)
    assert all(any(tenant in urn for urn in created) for tenant in BOTH)
    assert all("leaver" in urn or "minnow" in urn for urn in created)
    assert not before.keys() - after.keys()
    named = [line for line in plan.splitlines() if line.strip().startswith(("+", "-", "~"))]
    assert not [line for line in named if any(other in line for other in SAMPLE)]
    for urn in before:
        if "pulumi:pulumi:Stack" not in urn:
            assert after[urn] == before[urn]


def test_a_schema_that_cannot_be_made_is_its_tenants_row_and_holds_nobody_up(story: Story) -> None:
    spoilt, between = story.joining.spoilt, story.joining.between

    assert spoilt.returncode == 1
    rows = {cells[0]: cells[1] for line in spoilt.stdout.splitlines() if len(cells := columns(line)) > 2}
    assert {rows[tenant] for tenant in (*SAMPLE, "leaver")} == {"done"}
    assert rows["minnow"] == "failed"
    assert "schema tenant_minnow should be on revision" in spoilt.stderr
    assert "Traceback" not in spoilt.stdout + spoilt.stderr
    of_leaver = {urn for urn in story.joining.after if "leaver" in urn}
    assert of_leaver <= set(between)


def columns(line: str) -> list[str]:
    """The cells of a row in a table."""
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_dropping_entries_in_one_step_is_refused_in_one_message(story: Story) -> None:
    assert story.dropped is not None
    assert story.dropped.returncode == 1
    told = story.dropped.stderr
    assert "leaver, minnow: no longer in the roster" in " ".join(told.split())
    assert "state: offboarding" in told
    assert "Traceback" not in told
    assert "urn:pulumi" not in told
    assert story.unchanged


def test_a_suspended_tenant_is_off_and_served_by_nobody_and_keeps_its_data(story: Story) -> None:
    active, suspended = story.seen["active"], story.seen["suspended"]

    assert (active.machine, active.logins) == ("Running", set(BOTH))
    assert (suspended.machine, suspended.logins) == ("Stopped", set())
    assert (suspended.rows, suspended.files) == (active.rows, active.files) == (1, 1)


def test_back_from_suspension_everything_is_as_before(story: Story) -> None:
    assert story.seen["active again"] == story.seen["active"]


def test_a_leaving_tenant_is_off_and_has_its_data_until_it_is_gone(story: Story) -> None:
    leaving = story.seen["offboarding"]

    assert (leaving.machine, leaving.logins) == ("Stopped", set())
    assert (leaving.rows, leaving.files) == (1, 1)


def test_the_final_backup_holds_rows_files_and_the_volume(platform: Platform, story: Story) -> None:
    s3, logs = platform.s3(), bucket_of(platform, "logs")
    listed = s3.list_objects_v2(Bucket=logs, Prefix="offboarded/leaver/")["Contents"]
    saved = {item["Key"].split("/", 3)[3]: item["Key"] for item in listed}

    def content(name: str) -> bytes:
        body: bytes = s3.get_object(Bucket=logs, Key=saved[name])["Body"].read()
        return body

    manifest = json.loads(content("manifest.json"))
    restored = subprocess.run(
        [postgres.BIN / "pg_restore", "--file=-"],
        input=content("database.dump"),
        capture_output=True,
        check=True,
    ).stdout.decode()
    assert "COPY tenant_leaver.extra (one) FROM stdin;\n1\n" in restored
    assert all(f"CREATE TABLE tenant_leaver.{name} " in restored for name in TABLES)
    assert manifest["database"]["largeObjects"]["count"] == 1
    assert b"'\\x6f6666'" in gzip.decompress(content("large-objects.sql.gz"))
    assert content("objects/uploads/kept ü") == b"kept"
    assert manifest["volumes"][0]["claim"] == "workspace-leaver"
    assert not any("waiver" in key or "minnow" in key for key in saved.values())


@pytest.mark.parametrize("tenant", BOTH)
def test_the_receipt_lists_every_place_with_nothing_in_it(
    platform: Platform, story: Story, tenant: str
) -> None:
    left = receipt(platform, tenant)

    places = {(place["server"], place["what"]) for place in left["places"]}
    assert len(places) == len(left["places"]) >= 25
    assert {server for server, _ in places} == {
        "PostgreSQL",
        "Vault",
        "Object storage",
        "Exoscale",
        "Kubernetes",
        "Redis",
        "DNS",
    }
    assert all(place["found"] == "nothing" and place["at"] and place["how"] for place in left["places"])


def test_the_receipt_says_what_remains_and_until_when(platform: Platform, story: Story) -> None:
    final, waived = receipt(platform, "leaver"), receipt(platform, "minnow")

    assert final["backup"]["kind"] == "final"
    remains = {item["what"]: item for item in final["remains"]}
    assert remains.keys() == {"final backup", "backup of the workspace", ROWS, LOGS, ACCOUNT}
    assert remains[LOGS]["where"].endswith("/tenant_leaver/")
    assert remains[LOGS]["until"] > final["removed"][:10]
    assert remains[ACCOUNT]["until"] > "2036"
    assert remains["final backup"]["until"] > final["removed"]
    assert "1 large objects of 3 bytes" in remains["final backup"]["holds"]
    assert waived["backup"] == {"kind": "waived", "reason": REASON}
    assert [item["what"] for item in waived["remains"]] == [LOGS, ROWS, ACCOUNT]


@pytest.mark.parametrize("tenant", BOTH)
def test_an_independent_scan_of_every_server_finds_nothing(
    platform: Platform, story: Story, tenant: str
) -> None:
    assert story.removed_until_killed == 6
    assert traces(platform, tenant, story.logins[tenant]) == []
    assert set(platform.state()) == set(story.joining.before)


def test_an_id_is_never_given_again(platform: Platform, story: Story) -> None:
    sample = platform.roster.read_text(encoding="utf-8")
    document = yaml.safe_load(sample)
    platform.write_roster({**document, "tenants": [*document["tenants"], LEAVER]})
    try:
        refused = platform.run("preview")
    finally:
        platform.roster.write_text(sample, encoding="utf-8")

    assert refused.returncode == 1
    assert "a tenant of this id was removed before" in refused.stderr
