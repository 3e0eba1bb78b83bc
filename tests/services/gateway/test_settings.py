"""What the gateway is told by its environment; what is wrong with it is one message."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.gateway.settings import Settings, SettingsError
from tests.services.gateway.harness import make_certificate


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """All that has to be there."""
    make_certificate(tmp_path)
    (tmp_path / "operators.json").write_text('{"keys": []}')
    return {
        "DOMAIN": "Agents.Example.CH.",
        "POD_NAME": "gateway-1",
        "POD_IP": "127.0.0.1",
        "SOCKETS": str(tmp_path),
        "REDIS_URL": "redis://gateway@127.0.0.1:1",
        "REDIS_PASSWORD_FILE": str(tmp_path / "password"),
        "OPERATOR_KEYS": str(tmp_path / "operators.json"),
        "ASSERTION_KEY": str(tmp_path / "key.pem"),
        "ROUTES_NAMESPACE": "gateway",
    }


def start(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "services.gateway"],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_domain_is_compared_as_hosts_are(environment: dict[str, str]) -> None:
    assert Settings.read(environment).domain == "agents.example.ch"


def test_everything_that_is_missing_is_named_at_once(environment: dict[str, str]) -> None:
    del environment["REDIS_URL"]
    environment["SOCKETS"] = ""

    with pytest.raises(SettingsError, match="lacks SOCKETS, REDIS_URL, so the gateway does not start"):
        Settings.read(environment)


@pytest.mark.parametrize("text", ["-1", "1e6", "", "²"])
def test_a_limit_is_a_whole_number(environment: dict[str, str], text: str) -> None:
    with pytest.raises(SettingsError, match=r"BODY_BYTES .* whole number, such as 1073741824"):
        Settings.read(environment | {"BODY_BYTES": text})


def test_no_keys_of_operators_is_told_in_one_line(environment: dict[str, str]) -> None:
    refused = start(environment)

    assert refused.returncode == 1
    (told,) = refused.stderr.splitlines()
    assert "(OPERATOR_KEYS) holds no JWK set of the operators' public keys" in told


@pytest.mark.parametrize(
    "key", [None, b"", b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", "of another kind"]
)
def test_no_key_that_vouches_for_requests_is_told_in_one_line(
    environment: dict[str, str], tmp_path: Path, key: Any
) -> None:
    (Path(environment["OPERATOR_KEYS"])).write_text(
        '{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "a", '
        '"x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}'
    )
    if key == "of another kind":
        key = (tmp_path / "tls.key").read_bytes()
    if key is not None:
        Path(environment["ASSERTION_KEY"]).write_bytes(key)

    refused = start(environment)

    assert refused.returncode == 1
    (told,) = refused.stderr.splitlines()
    assert "(ASSERTION_KEY) holds no private Ed25519 key in PEM, so the gateway does not start" in told


def test_agents_are_told_the_address_of_this_replica(environment: dict[str, str]) -> None:
    assert Settings.read(environment).agents_at == "https://127.0.0.1:8444"
    assert Settings.read({**environment, "POD_IP": "fd00::7"}).agents_at == "https://[fd00::7]:8444"
