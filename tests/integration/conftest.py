"""One embedded platform for all integration tests: a copy of the checkout, brought up once."""

import copy
import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import hvac  # type: ignore[import-untyped]
import psycopg
import pytest
import yaml
from kubernetes import client, config

from local import scratch

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Platform:
    """A checkout of its own with its own servers."""

    root: Path
    guests: str = "reported"

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """`python -m local ARGUMENTS` in the copy, as make calls it; what it printed is captured."""
        return subprocess.run(
            [sys.executable, "-m", "local", *arguments],
            cwd=self.root,
            env=self.environment() | dict(env or {}),
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The same in the background, in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "local", *arguments],
            cwd=self.root,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def environment(self) -> dict[str, str]:
        """The caller's, without what would move the platform or stand in for its servers."""
        return scratch.environment(self.guests)

    def start_servers(self) -> None:
        """Start those that do not run, as `up` does first; the program does not run."""
        script = "from rich.console import Console; from local import servers; servers.start_all(Console())"
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=self.root,
            env=self.environment(),
            capture_output=True,
            timeout=300,
            check=True,
        )

    def up(self) -> subprocess.CompletedProcess[str]:
        """`up`, which must succeed."""
        done = self.run("up")
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def changes(self, *arguments: str) -> dict[str, int]:
        """The steps that `preview --json` counts, but for what stays the same; it must print nothing else."""
        done = self.run("preview", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        counts = json.loads(done.stdout)["changes"]
        assert counts["same"]
        return changed(counts)

    def status(self) -> dict[str, Any]:
        """`status --json`."""
        done = self.run("status", "--json")
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def process(self, server: str) -> int:
        """The process id of a server that runs."""
        record = json.loads((self.root / f".local/run/{server}.json").read_text(encoding="utf-8"))
        return int(record["pid"])

    def exports(self) -> dict[str, str]:
        """What `eval "$(make env)"` puts into a shell; the same as long as the platform lives."""
        return dict(_exports(self))

    def remove(self, *entries: dict[str, Any]) -> None:
        """Have tenants leave as an operator does: without a backup, and then for good."""
        document = yaml.safe_load(self.roster.read_text(encoding="utf-8"))
        gone = {entry["id"] for entry in entries}
        staying = [entry for entry in document["tenants"] if entry["id"] not in gone]
        if any(entry.get("state") != "offboarding" for entry in entries):
            waived = {"backup": "waived", "reason": "the test is over"}
            leaving = [{**entry, "state": "offboarding", "offboarding": waived} for entry in entries]
            self.write_roster({**document, "tenants": [*staying, *leaving]})
            self.up()
        retired = sorted({*document.get("retired", []), *gone})
        self.write_roster({**document, "tenants": staying, "retired": retired})
        self.up()

    def has(self, tenant: str) -> bool:
        """Whether the state has anything of that tenant."""
        return any(urn.endswith(f"::{tenant}-registration") for urn in self.state())

    def write_roster(self, document: dict[str, Any]) -> None:
        """Put another roster in the place of the copy's."""
        self.roster.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")

    def _exports(self) -> dict[str, str]:
        script = 'eval "$("$0" -m local env)" && env -0'
        printed = subprocess.run(
            ["bash", "-c", script, sys.executable],
            cwd=self.root,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return dict(line.split("=", 1) for line in printed.split("\0") if line)

    @property
    def state_file(self) -> Path:
        """Where the engine keeps the stack's state."""
        return self.root / ".local/stacks/local/state/.pulumi/stacks/agent-platform/local.json"

    def state(self) -> dict[str, dict[str, Any]]:
        """The stack's resources by URN: type, id, inputs and outputs, with every secret masked.

        (Each run encrypts secrets anew.) Nothing may stand there twice or be left pending.
        """
        deployment = json.loads(self.state_file.read_text(encoding="utf-8"))["checkpoint"]["latest"]
        urns = [resource["urn"] for resource in deployment["resources"]]
        assert len(urns) == len(set(urns))
        assert not deployment.get("pending_operations")
        compared = ("type", "id", "inputs", "outputs")
        return {
            resource["urn"]: {key: _masked(resource.get(key)) for key in compared}
            for resource in deployment["resources"]
        }

    @property
    def roster(self) -> Path:
        """The copy's `tenants.yaml`."""
        return self.root / "tenants.yaml"

    def database(self, user: str | None = None, password: str | None = None) -> psycopg.Connection[Any]:
        """A connection as the administrator, or as somebody."""
        exports = self.exports()
        return psycopg.connect(
            host=exports["PGHOST"],
            port=int(exports["PGPORT"]),
            dbname=exports["PGDATABASE"],
            user=user or exports["PGUSER"],
            password=password or exports["PGPASSWORD"],
            autocommit=True,
        )

    def vault(self, token: str | None = None) -> hvac.Client:
        """A client with the operator's token, or with somebody's."""
        exports = self.exports()
        return hvac.Client(url=exports["VAULT_ADDR"], token=token or exports["VAULT_TOKEN"])

    def s3(self, access_key: str | None = None, secret_key: str | None = None) -> Any:
        """A client with the owner's key, or with somebody's."""
        exports = self.exports()
        return boto3.client(
            "s3",
            endpoint_url=exports["AWS_ENDPOINT_URL"],
            region_name=exports["AWS_REGION"],
            aws_access_key_id=access_key or exports["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=secret_key or exports["AWS_SECRET_ACCESS_KEY"],
        )

    def pause_the_suspender(self) -> None:
        """No sweep but by hand: the tests take longer than a machine may idle."""
        batch: Any = client.BatchV1Api(_kubernetes(self))
        batch.patch_namespaced_cron_job("idle-suspender", "platform-system", {"spec": {"suspend": True}})

    def core(self) -> Any:
        """The cluster's core API, as its administrator."""
        return client.CoreV1Api(_kubernetes(self))

    def objects(self) -> Any:
        """The cluster's custom objects, as its administrator."""
        return client.CustomObjectsApi(_kubernetes(self))


def changed(counts: Mapping[str, int]) -> dict[str, int]:
    """Of an engine's counts by step, those that are changes."""
    return {step: count for step, count in counts.items() if count and step != "same"}


@functools.cache
def _exports(platform: Platform) -> dict[str, str]:
    return platform._exports()


@functools.cache
def _kubernetes(platform: Platform) -> Any:
    connect: Any = config.new_client_from_config
    return connect(platform.exports()["KUBECONFIG"])


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        if "ciphertext" in value:
            return "secret"
        return {key: _masked(item) for key, item in value.items()}
    return [_masked(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """The platform with the four sample tenants."""
    with scratch.checkout() as root:
        platform = Platform(root)
        try:
            platform.up()
            platform.pause_the_suspender()
            yield platform
        finally:
            platform.run("down")


Edit = Callable[[Callable[[list[dict[str, Any]]], None]], None]


@contextmanager
def edited_roster(platform: Platform) -> Iterator[Edit]:
    """Changes of the sample roster, each from the sample; afterwards the sample is in force again.

    What was added leaves for good, in two steps, and its id is never given again: use another each time.
    """
    sample = yaml.safe_load(platform.roster.read_text(encoding="utf-8"))
    added: dict[str, dict[str, Any]] = {}

    def edit(change: Callable[[list[dict[str, Any]]], None]) -> None:
        document = copy.deepcopy(sample)
        change(document["tenants"])
        platform.write_roster(document)
        known = {entry["id"] for entry in sample["tenants"]}
        added.update({entry["id"]: entry for entry in document["tenants"] if entry["id"] not in known})

    yield edit
    left = [entry for entry in added.values() if platform.has(entry["id"])]
    in_force = yaml.safe_load(platform.roster.read_text(encoding="utf-8")) == sample
    platform.write_roster(sample)
    if left:
        platform.remove(*left)
    elif not in_force:
        platform.up()


@pytest.fixture
def edit_roster(platform: Platform) -> Iterator[Edit]:
    """`edited_roster` for one test."""
    with edited_roster(platform) as edit:
        yield edit
