"""Stacks of some layers declare together what one stack of all layers does; each knows the one below."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from infra.errors import ConfigurationError
from infra.tenants.roster import load_roster
from tests.infra.recording import (
    ROOT,
    SECRETS,
    Output,
    Outputs,
    Recorder,
    Registered,
    configure,
    local_stack,
    record,
    stack,
)

CLUSTER = ("cluster", "objectStorage", "operatorNetworks")
SLICES = "slices: {left: [0-2047], right: [2048-4095]}\n"
BASE = {"baseStack": "organization/agent-platform/below"}
ENTERED = {
    "agent-platform:cluster:ClusterReference",
    "agent-platform:platform:PlatformReference",
    "exoscale:index/sksKubeconfig:SksKubeconfig",
    "pulumi:providers:kubernetes",
    "pulumi:providers:postgresql",
    "pulumi:providers:vault",
}
"""What a stack declares to get into what another one made."""


def run(
    values: dict[str, Any], base: Outputs | None = None, secrets: dict[str, str] | None = None
) -> Recorder:
    configure(values, secrets)
    return record(lambda: runpy.run_path(str(ROOT), run_name="__main__"), base=base)


@pytest.fixture(params=["prod", "local"], scope="module")
def environment(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, str]]:
    """The configuration of one stack for everything, and its secrets: managed services, and given ones."""
    roster = {"roster": str(ROOT / "tenants.yaml")}
    if request.param == "prod":
        return {**stack("prod"), **roster}, {}
    return {**local_stack(), **roster}, SECRETS


@pytest.fixture(scope="module")
def whole(environment: tuple[dict[str, Any], dict[str, str]]) -> Recorder:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("infra.platform.preflight.require_given_services", lambda _settings: None)
        return run(environment[0], secrets=environment[1])


def made(recorder: Recorder, tenants: bool | None = None) -> dict[str, Registered]:
    """What the stack made, without its ways in; of tenants, of everything else, or both."""
    components = {one.name for one in recorder.of_type("agent-platform:tenants:Tenant")}
    return {
        name: found
        for name, found in recorder.registered.items()
        if found.type not in ENTERED
        and (tenants is None or tenants == (name in components or found.parent in components))
    }


def alike(some: dict[str, Registered], others: dict[str, Registered]) -> None:
    """Everything but what is waited for: what another stack has made is there."""
    assert some.keys() == others.keys()
    for name, one in some.items():
        other = others[name]
        assert one.inputs == other.inputs, name
        assert (one.type, one.protect, one.retain_on_delete) == (
            other.type,
            other.protect,
            other.retain_on_delete,
        ), name
        assert set(one.depends_on) <= set(other.depends_on), name


@pytest.fixture(scope="module")
def layered(
    environment: tuple[dict[str, Any], dict[str, str]],
) -> tuple[Recorder, Recorder, Recorder]:
    """The same in three stacks."""
    values, secrets = environment
    cluster_only = {key: value for key, value in values.items() if key in CLUSTER}
    above = {key: value for key, value in values.items() if key not in ("cluster", "objectStorage")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("infra.platform.preflight.require_given_services", lambda _settings: None)
        cluster = run({**cluster_only, "layers": ["cluster"]})
        platform = run({**above, **BASE, "layers": ["platform"]}, cluster.outputs, secrets)
        tenants = run({**BASE, "layers": ["tenants"], "roster": values["roster"]}, platform.outputs)
    return cluster, platform, tenants


def test_three_stacks_make_together_what_one_makes(
    whole: Recorder, layered: tuple[Recorder, Recorder, Recorder]
) -> None:
    cluster, platform, tenants = layered
    alike(made(tenants), made(whole, tenants=True))
    alike({**made(cluster), **made(platform)}, made(whole, tenants=False))


def test_a_secret_of_the_configuration_is_one_between_stacks_and_nothing_else_is(
    environment: tuple[dict[str, Any], dict[str, str]], layered: tuple[Recorder, Recorder, Recorder]
) -> None:
    given = {"services.database.admin_password", "services.redis.password", "services.vault.token"}
    for recorder in layered[:2]:
        secret = {name for name, output in recorder.outputs.items() if output.secret}
        assert secret == (given if environment[1] and recorder is layered[1] else set())


def test_no_kubeconfig_is_handed_around(layered: tuple[Recorder, Recorder, Recorder]) -> None:
    for recorder in layered:
        assert len(recorder.of_type("exoscale:index/sksKubeconfig:SksKubeconfig")) == 1
        assert not [name for name in recorder.outputs if name.endswith("kubernetes")]


@pytest.fixture(scope="module")
def platform_outputs() -> Outputs:
    values = {key: value for key, value in stack("prod").items() if key != "layers"}
    return run({**values, "layers": ["cluster", "platform"]}).outputs


def test_slices_share_the_roster_out(tmp_path: Path, platform_outputs: Outputs) -> None:
    path = tmp_path / "tenants.yaml"
    entry = "  - {{id: t{}x, name: A, tier: starter, owner: a@b.example}}\n"
    path.write_text("tenants:\n" + "".join(entry.format(number) for number in range(9)) + SLICES)
    values = {**BASE, "layers": ["tenants"], "roster": str(path)}
    shares = [
        {
            one.name
            for one in run({**values, "shard": name}, platform_outputs).of_type(
                "agent-platform:tenants:Tenant"
            )
        }
        for name in ("left", "right")
    ]
    assert all(shares)
    assert sorted([*shares[0], *shares[1]]) == [entry.id for entry in load_roster(path).tenants]


def test_a_stack_of_tenants_alone_names_its_slice(tmp_path: Path, platform_outputs: Outputs) -> None:
    path = tmp_path / "tenants.yaml"
    path.write_text("tenants: []\n" + SLICES)
    values = {**BASE, "layers": ["tenants"], "roster": str(path)}
    with pytest.raises(ConfigurationError, match=r"shard: is missing, though .* left, right\."):
        run(values, platform_outputs)
    with pytest.raises(ConfigurationError, match=r"no slice 'middle', .* left, right\."):
        run({**values, "shard": "middle"}, platform_outputs)


def test_a_base_that_has_nothing_to_give_is_told(platform_outputs: Outputs) -> None:
    values = {**BASE, "layers": ["tenants"], "roster": str(ROOT / "tenants.yaml")}
    with pytest.raises(ConfigurationError, match=r"below has no output services\.") as told:
        run(values, {"cluster": Output("https://sks.test", secret=False)})
    assert "nothing was changed" in str(told.value)
    without = {name: output for name, output in platform_outputs.items() if name != "services.vault.address"}
    with pytest.raises(ConfigurationError, match=r"no output services\.vault\.address"):
        run(values, without)


@pytest.mark.parametrize("tenants", [500, 501])
def test_a_stack_of_very_many_tenants_is_advised_to_slice(
    tenants: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infra.tenants import slices

    told: list[str] = []
    monkeypatch.setattr("pulumi.log.warn", told.append)
    slices.advise(tenants)
    assert ["slices" in message for message in told] == [True] * (tenants - 500)
