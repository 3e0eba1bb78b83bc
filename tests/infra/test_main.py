"""The program as Pulumi's language host runs it: from the root, top to bottom."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.errors import ConfigurationError
from tests.infra.recording import ROOT, Recorder, configure, record, stack


def run(values: dict[str, Any]) -> Recorder:
    configure(values)
    return record(lambda: runpy.run_path(str(ROOT), run_name="__main__"))


def test_production_is_cluster_platform_and_a_tenant_for_each_entry() -> None:
    registered = run({**stack("prod"), "roster": str(ROOT / "tenants.yaml")})
    entries = yaml.safe_load((ROOT / "tenants.yaml").read_text())["tenants"]
    components = [one for one in registered.registered.values() if one.parent == "agent-platform-test"]
    assert {one.type for one in components} == {
        "agent-platform:cluster:Cluster",
        "agent-platform:platform:Platform",
        "agent-platform:tenants:Tenant",
    }
    tenants = [one.name for one in components if one.type == "agent-platform:tenants:Tenant"]
    assert sorted(tenants) == sorted(entry["id"] for entry in entries)


@pytest.mark.parametrize("broken", ["configuration", "roster"])
def test_a_mistake_is_told_before_anything_is_registered(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {**stack("prod"), "roster": str(ROOT / "tenants.yaml")}
    if broken == "configuration":
        values["domian"] = values.pop("domain")
    else:
        (tmp_path / "tenants.yaml").write_text("tenants: [{id: not-an-id}]")
        values["roster"] = str(tmp_path / "tenants.yaml")
    registered: list[str] = []
    monkeypatch.setattr(Recorder, "RegisterResource", lambda _self, request: registered.append(request.name))
    with pytest.raises(ConfigurationError):
        run(values)
    assert not registered
