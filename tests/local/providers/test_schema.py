"""The official schemas, as the installed SDK packages have them."""

import pytest

from local.providers.provider import ProviderError
from local.providers.schema import Schema
from local.providers.values import UNKNOWN, Properties

ROLE = Schema("pulumi_postgresql").resource("postgresql:index/role:Role")
BACKEND = Schema("pulumi_vault").resource("vault:database/secretBackendConnection:SecretBackendConnection")


def reasons(inputs: Properties) -> list[str]:
    return [failure.reason for failure in ROLE.check("r", inputs)[1]]


def test_what_is_right_passes_unchanged() -> None:
    inputs = {"name": "a", "login": False, "roles": ["x", UNKNOWN], "connectionLimit": 5}
    assert ROLE.check("r", inputs) == (inputs, [])


def test_scalars_are_converted_as_the_official_plugins_do() -> None:
    checked, failures = ROLE.check("r", {"name": 1, "login": "true", "connectionLimit": "5"})
    assert (checked, failures) == ({"name": "1", "login": True, "connectionLimit": 5}, [])


def test_an_unknown_property_is_named() -> None:
    assert reasons({"rolez": ["a"]}) == ["Invalid or unknown key. Examine values at 'r.rolez'."]


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"roles": "x"}, "expected array type, got string type. Examine values at 'r.roles'."),
        ({"roles": [{}]}, "expected string type, got object type. Examine values at 'r.roles[0]'."),
        ({"login": "maybe"}, "expected bool type, got string type. Examine values at 'r.login'."),
        (
            {"connectionLimit": True},
            "expected number type, got bool type. Examine values at 'r.connectionLimit'.",
        ),
    ],
)
def test_a_wrong_type_is_named(inputs: Properties, reason: str) -> None:
    assert reasons(inputs) == [reason]


def test_a_missing_property_is_named() -> None:
    _, failures = BACKEND.check("db", {})
    assert [failure.reason for failure in failures] == [
        'Missing required argument. The argument "backend" is required, but no definition was found.. '
        "Examine values at 'db.backend'."
    ]


def test_nested_objects_are_checked() -> None:
    _, failures = BACKEND.check("db", {"backend": "b", "postgresql": {"connectionUrl": "u", "typo": 1}})
    assert [failure.reason for failure in failures] == [
        "Invalid or unknown key. Examine values at 'db.postgresql.typo'."
    ]


def test_an_unknown_value_satisfies_what_is_required() -> None:
    assert BACKEND.check("db", {"backend": UNKNOWN})[1] == []


def test_a_preview_leaves_open_what_the_server_decides() -> None:
    preview = BACKEND.preview({"backend": "b", "__defaults": []})
    assert preview["backend"] == "b"
    assert preview["name"] is UNKNOWN
    assert "__defaults" not in preview
    assert "urn" not in preview


def test_an_unknown_type_is_refused() -> None:
    schema = Schema("pulumi_postgresql")
    assert not schema.knows("postgresql:index/roll:Roll")
    with pytest.raises(ProviderError, match="postgresql:index/roll:Roll"):
        schema.resource("postgresql:index/roll:Roll")


@pytest.mark.parametrize(
    ("package", "token"),
    [
        ("pulumi_kubernetes", "kubernetes:apps/v1:Deployment"),
        ("pulumi_kubernetes", "kubernetes:helm.sh/v3:Release"),
        ("pulumiverse_exoscale", "exoscale:index/sksNodepool:SksNodepool"),
        ("pulumi_vault", "vault:kubernetes/authBackendRole:AuthBackendRole"),
    ],
)
def test_every_sdk_can_be_read(package: str, token: str) -> None:
    schema = Schema(package)
    assert schema.resource(token).inputs
    assert schema.provider.inputs
