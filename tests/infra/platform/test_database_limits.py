"""The job that holds tenants to their limits in PostgreSQL, as declared: what it may, and who it reaches."""

from typing import Any

import pytest

from infra.platform import vault
from tests.infra.platform.test_platform import platform, secret
from tests.infra.recording import SECRETS, Recorder, local_stack, stack

LIMITS = "platform-limits"


@pytest.fixture(scope="module", params=["managed", "given"])
def declared(request: pytest.FixtureRequest) -> Recorder:
    return platform(stack("prod")) if request.param == "managed" else platform(local_stack(), SECRETS)


def pod(recorder: Recorder) -> dict[str, Any]:
    job: dict[str, Any] = recorder[f"{LIMITS}-job"].inputs["spec"]["jobTemplate"]["spec"]
    spec: dict[str, Any] = job["template"]["spec"]
    return spec


def told(recorder: Recorder) -> dict[str, str]:
    (container,) = pod(recorder)["containers"]
    return {each["name"]: each["value"] for each in container["env"]}


def test_it_runs_each_minute_and_ends_before_the_next(declared: Recorder) -> None:
    spec = declared[f"{LIMITS}-job"].inputs["spec"]
    job = spec["jobTemplate"]["spec"]
    assert (spec["schedule"], spec["concurrencyPolicy"]) == ("* * * * *", "Forbid")
    assert (job["activeDeadlineSeconds"], job["backoffLimit"]) == (50, 0)


def test_it_has_no_right_in_kubernetes_and_no_token(declared: Recorder) -> None:
    spec = pod(declared)
    assert spec["serviceAccountName"] == "database-limits"
    assert spec["automountServiceAccountToken"] is False
    assert all("secret" in volume for volume in spec["volumes"])
    bound = [
        subject["name"]
        for kind in ("RoleBinding", "ClusterRoleBinding")
        for binding in declared.of_type(f"kubernetes:rbac.authorization.k8s.io/v1:{kind}")
        for subject in binding.inputs["subjects"]
    ]
    assert "idle-suspender" in bound
    assert "database-limits" not in bound


def test_it_reaches_the_database_and_nothing_else(declared: Recorder) -> None:
    policies = {
        one.name.removeprefix(f"{LIMITS}-"): one.inputs
        for one in declared.of_type("kubernetes:networking.k8s.io/v1:NetworkPolicy")
        if one.name.startswith(LIMITS)
    }
    assert set(policies) == {"default-deny", "to-dns", "to-database"}
    for policy in policies.values():
        assert policy["spec"]["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "database-limits"}}
    (rule,) = policies["to-database"]["spec"]["egress"]
    assert [port["port"] for port in rule["ports"]] == [5432]


def test_its_role_in_postgresql_is_plain(declared: Recorder) -> None:
    role = dict(declared["platform-database-limits"].inputs)
    assert secret(role.pop("password")) == "drawn"
    assert role == {"name": "limits", "login": True, "inherit": False}
    grant = declared["platform-database-connect-limits"].inputs
    assert (grant["objectType"], grant["privileges"]) == ("database", ["CONNECT"])
    assert secret(declared[f"{LIMITS}-password"].inputs["stringData"])["password"] == "drawn"
    control = declared["platform-database-control"].inputs
    assert (control["keeper"], control["issuer"]) == ("limits", "vault")


def test_it_verifies_the_server_by_the_authority_that_certified_it() -> None:
    managed = told(platform(stack("prod")))
    assert (managed["PGHOST"], managed["PGUSER"]) == ("postgres-rw.databases.svc", "limits")
    assert managed["PGSSLMODE"] == "verify-full"
    assert managed["PGSSLROOTCERT"] == "/etc/postgresql/ca.crt"
    values = local_stack()
    assert told(platform(values, SECRETS))["PGSSLMODE"] == "disable"
    values["database"]["given"] |= {"sslMode": "verify-ca", "host": "db.example.ch"}
    public = told(platform(values, SECRETS))
    assert (public["PGSSLMODE"], public["PGSSLROOTCERT"]) == ("verify-full", "system")


def test_vault_finds_a_connection_when_tenants_hold_all_of_theirs() -> None:
    cluster = platform(stack("prod"))["platform-database-cluster"].inputs["spec"]
    limits = {
        name: int(value) for name, value in cluster["postgresql"]["parameters"].items() if value.isdigit()
    }
    kept = limits["reserved_connections"]
    ordinary = limits["max_connections"] - limits["superuser_reserved_connections"] - kept
    # Its own count among the ordinary ones as long as there are any.
    assert ordinary >= 500 + vault.DATABASE_CONNECTIONS
    assert kept > vault.DATABASE_CONNECTIONS
