"""One environment in three stacks, for real: the platform, and two slices of the tenants that refer to it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from infra.tenants.slices import BUCKETS, bucket
from local import scratch
from tests.integration.conftest import Platform, changed

_SERVERS = """
from rich.console import Console
from local import engine, servers, toolchain
toolchain.ensure(Console(stderr=True))
engine.install_plugins(engine.LOCAL_STACK, official_only=False)
servers.start_all(Console(stderr=True))
"""
_STACK = """
import json, pathlib, sys
from pulumi import automation as auto
from local import engine, servers
from local.errors import LocalError

asked = json.load(sys.stdin)
config = asked["config"]
secrets = {}
if "agent-platform:database" in config:
    config = engine._merged(config, servers.stack_settings())
    secrets = servers.stack_secrets()
stack = engine.beside(engine.stack(engine.LOCAL_STACK), asked["name"], config)
stack.set_all_config({key: auto.ConfigValue(value, secret=True) for key, value in secrets.items()})
try:
    if asked["action"] == "move":
        source, target, urn = asked["arguments"]

        def pulumi(*arguments):
            return stack.workspace.pulumi_command.run(
                list(arguments), stack.workspace.work_dir, stack.workspace.env_vars
            ).stdout

        def provider(state):
            kind = "::pulumi:providers:pulumi-python::default"
            resources = json.loads(state)["deployment"]["resources"]
            return next(each["id"] for each in resources if each["urn"].endswith(kind))

        states = [pulumi("stack", "export", "--stack", name) for name in (source, target)]
        aligned = pathlib.Path(stack.workspace.work_dir) / "aligned.json"
        aligned.write_text(states[1].replace(provider(states[1]), provider(states[0])))
        pulumi("stack", "import", "--stack", target, "--file", str(aligned))
        answer = {"told": pulumi("state", "move", "--yes", "--source", source, "--dest", target, urn)}
    else:
        answer = {"counts": getattr(engine, asked["action"])(stack, output=lambda _line: None)}
        answer["outputs"] = {name: output.secret for name, output in stack.outputs().items()}
except LocalError as error:
    answer = {"error": str(error)}
print(json.dumps(answer))
"""
_BASE = "organization/agent-platform/platform"


class Environment:
    """The three stacks in a checkout of their own."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        document = yaml.safe_load((platform.root / "Pulumi.local.yaml").read_text())
        roster = {"agent-platform:roster": str(platform.roster)}
        above = {"agent-platform:layers": ["tenants"], "agent-platform:baseStack": _BASE, **roster}
        self._config = {
            "platform": {**document["config"], **roster, "agent-platform:layers": ["cluster", "platform"]},
            **{name: {**above, "agent-platform:shard": name} for name in ("left", "right")},
        }
        policies = platform.root / "policy"
        for name in self._config:
            shutil.copyfile(policies / "config.local.json", policies / f"config.{name}.json")
        self._tenants: list[dict[str, Any]] = yaml.safe_load(platform.roster.read_text())["tenants"]
        numbers = sorted(bucket(tenant["id"]) for tenant in self._tenants)
        self.boundary = numbers[len(numbers) // 2]
        """The first bucket of the right slice."""
        self.write()

    def write(self, *more: dict[str, Any], slices: dict[str, list[str]] | None = None) -> None:
        """The sample roster, with other tenants, and cut."""
        cut = {"left": [f"0-{self.boundary - 1}"], "right": [f"{self.boundary}-{BUCKETS - 1}"]}
        document = {"tenants": [*self._tenants, *more], "slices": slices or cut}
        self.platform.write_roster(document)

    def ids(self, name: str) -> set[str]:
        """The sample tenants of a slice."""
        ids = {str(tenant["id"]) for tenant in self._tenants}
        return {one for one in ids if (bucket(one) < self.boundary) == (name == "left")}

    def run(self, action: str, name: str, *arguments: str) -> dict[str, Any]:
        """Do something with a stack; returns what came of it."""
        asked = {"action": action, "name": name, "config": self._config[name], "arguments": arguments}
        answer: dict[str, Any] = json.loads(self._python(_STACK, json.dumps(asked)).splitlines()[-1])
        return answer

    def start(self) -> None:
        """Start the servers, and run no program."""
        self._python(_SERVERS)

    def _python(self, script: str, given: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=self.platform.root,
            env=self.platform.environment(),
            input=given,
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def state(self, name: str) -> dict[str, Any]:
        """What the engine has written down of a stack."""
        file = self.platform.state_file.with_name(f"{name}.json")
        state: dict[str, Any] = json.loads(file.read_text())["checkpoint"]["latest"]
        return state

    def parts(self, name: str) -> dict[str, str]:
        """What a stack has made, providers apart: the name of each resource and its id."""
        return {
            str(resource["urn"]).rpartition("::")[2]: str(resource.get("id"))
            for resource in self.state(name)["resources"]
            if not resource["type"].startswith("pulumi:")
        }

    def tenants(self, name: str) -> set[str]:
        """Whom a stack has."""
        kind = "agent-platform:tenants:Tenant"
        return {
            str(resource["urn"]).rpartition("::")[2]
            for resource in self.state(name)["resources"]
            if resource["type"] == kind
        }


@pytest.fixture(scope="module")
def environment() -> Iterator[Environment]:
    with scratch.checkout() as root:
        environment = Environment(Platform(root))
        try:
            environment.start()
            for name in ("platform", "left", "right"):
                made = environment.run("up", name)
                assert made.get("counts", {}).get("create"), made
            yield environment
        finally:
            environment.platform.run("down")


@pytest.fixture(autouse=True)
def sample(environment: Environment) -> Iterator[None]:
    """Each test starts from the sample roster."""
    environment.write()
    yield
    environment.write()


def test_each_stack_has_its_own_tenants_and_together_they_are_all(environment: Environment) -> None:
    assert environment.tenants("platform") == set()
    for name in ("left", "right"):
        assert environment.tenants(name) == environment.ids(name) != set()
    with environment.platform.database() as connection:
        found = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tenant_%'")
        schemas = {row[0] for row in found}
    assert {f"tenant_{one}" for one in environment.ids("left") | environment.ids("right")} <= schemas


@pytest.fixture(scope="module")
def previews(environment: Environment) -> dict[str, dict[str, Any]]:
    """Preview each stack when nothing has changed."""
    return {name: environment.run("preview", name) for name in ("platform", "left", "right")}


def test_only_what_is_secret_crosses_as_a_secret(previews: dict[str, dict[str, Any]]) -> None:
    outputs = previews["platform"]["outputs"]
    assert {name for name, secret in outputs.items() if secret} == {
        "services.database.accounting_password",
        "services.database.admin_password",
        "services.database.issuer_password",
        "services.database.limits_password",
        "services.database.monitoring_password",
        "services.redis.password",
        "services.vault.database_server.issuer_password",
        "services.vault.token",
    }
    assert not [name for name in outputs if name.endswith(".kubernetes")]


def test_nothing_is_left_to_do_in_any_stack(previews: dict[str, dict[str, Any]]) -> None:
    for preview in previews.values():
        assert changed(preview["counts"]) == {}


def test_an_update_of_one_slice_leaves_the_other_alone(environment: Environment) -> None:
    before = environment.state("right")
    identifier = next(one for one in (f"more{n}" for n in range(99)) if bucket(one) < environment.boundary)
    # It is leaving from its first day on, so that one step removes it.
    environment.write(
        {
            "id": identifier,
            "name": "More",
            "tier": "starter",
            "owner": "a@b.example",
            "state": "offboarding",
            "offboarding": {"backup": "waived", "reason": "the test is over"},
        }
    )
    assert changed(environment.run("preview", "right")["counts"]) == {}
    assert environment.run("up", "left")["counts"]["create"]
    assert identifier in environment.tenants("left")
    environment.write()
    assert environment.run("up", "left")["counts"]["delete"]
    assert environment.state("right") == before


def test_a_map_with_a_hole_or_an_overlap_changes_nothing(environment: Environment) -> None:
    before = {name: environment.state(name) for name in ("left", "right")}
    for cut, told in (
        ({"left": ["0-9"], "right": ["11-4095"]}, "bucket 10 is in no slice"),
        ({"left": ["0-10"], "right": ["10-4095"]}, "bucket 10 is in left already"),
    ):
        environment.write(slices=cut)
        for name in ("left", "right"):
            error = environment.run("up", name)["error"]
            assert told in error
            assert "nothing was changed" in error
            assert "Traceback" not in error
    assert {name: environment.state(name) for name in ("left", "right")} == before


def test_a_tenant_changes_its_slice_by_moving_its_state_and_not_by_the_map_alone(
    environment: Environment,
) -> None:
    moved = max(environment.ids("left"), key=bucket)
    boundary = bucket(moved)
    cut = {"left": [f"0-{boundary - 1}"], "right": [f"{boundary}-{BUCKETS - 1}"]}
    environment.write(slices=cut)
    told = f"{moved}: no longer in slice left"
    assert told in environment.run("up", "left")["error"]
    assert moved in environment.tenants("left")

    def has_nothing_to_do(name: str) -> None:
        """But to drop the providers that came along, in whose place are the stack's own."""
        before = environment.parts(name)
        assert changed(environment.run("up", name)["counts"]).keys() <= {"delete"}
        assert environment.parts(name) == before

    left, right = environment.parts("left"), environment.parts("right")
    urn = next(
        str(resource["urn"])
        for resource in environment.state("left")["resources"]
        if str(resource["urn"]).endswith(f"Tenant::{moved}")
    )
    environment.run("move", "left", "left", "right", urn)
    for name in ("left", "right"):
        has_nothing_to_do(name)
    assert changed(environment.run("preview", "right")["counts"]) == {}
    assert moved in environment.tenants("right")
    assert {**environment.parts("left"), **environment.parts("right")} == {**left, **right}
