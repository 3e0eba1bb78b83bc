"""Tokens for the gateway, signed with keys in a real Vault."""

import time
from collections.abc import Iterator
from typing import Any

import hvac  # type: ignore[import-untyped]
import jwt
import pytest
from rich.console import Console

from infra.platform.access_key import AccessKeyProvider
from local import supervisor, tokens
from local.errors import LocalError
from local.servers import vault

# As the program makes it: its id is the name by which the gateway knows the key.
PAIR = AccessKeyProvider().create({})
KEY: dict[str, Any] = PAIR.outs or {}


@pytest.fixture(scope="module")
def secrets(console: Console) -> Iterator[Any]:
    vault.prepare()
    [service] = vault.services()
    supervisor.start(service, console)
    vault.bootstrap()
    client = hvac.Client(url=vault.url(), token=vault.root_token())
    client.sys.enable_secrets_engine("kv", path="tenants", options={"version": "2"})
    supervisor.wait_until(lambda: put(client, "acme", KEY["private"]), timeout=30, what="the mount")
    yield client
    supervisor.stop(service.name)


def put(client: Any, tenant: str, key: str) -> None:
    try:
        client.secrets.kv.v2.create_or_update_secret(
            f"{tenant}/gateway", {"private_key": key, "key_id": PAIR.id}, mount_point="tenants"
        )
    except hvac.exceptions.InvalidRequest as error:  # the mount is upgrading
        raise supervisor.NotReady(str(error)) from None


def test_a_token_is_for_one_tenant_for_an_hour_and_names_its_key(secrets: Any) -> None:
    token = tokens.mint("acme", ["acme", "bolt"])

    public = jwt.PyJWK(KEY["public"])
    claims = jwt.decode(token, public, algorithms=["EdDSA"], audience="acme")
    assert claims["sub"]
    assert 3500 < claims["exp"] - time.time() <= 3600
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "typ": "JWT", "kid": PAIR.id}


@pytest.mark.parametrize("known", [[], ["acme", "bolt"]])
def test_an_unknown_tenant_is_told_with_the_known_ones(known: list[str]) -> None:
    with pytest.raises(LocalError) as told:
        tokens.mint("nobody", known)

    ends = "known: acme, bolt, console." if known else "known: none yet, run `make up`."
    assert str(told.value).startswith("token: there is no tenant 'nobody', so no token was made; ")
    assert str(told.value).endswith(ends)


def test_a_tenant_without_a_key_is_told(secrets: Any) -> None:
    with pytest.raises(LocalError, match=r"Vault gives no usable key at tenants/bolt/gateway"):
        tokens.mint("bolt", ["bolt"])


def test_a_key_that_is_none_is_told_without_its_text(secrets: Any) -> None:
    put(secrets, "crow", "not a key")

    with pytest.raises(LocalError, match="no usable key at tenants/crow/gateway") as told:
        tokens.mint("crow", ["crow"])
    assert "not a key" not in str(told.value)


def test_a_vault_that_is_down_is_told(secrets: Any, console: Console) -> None:
    [service] = vault.services()
    supervisor.stop(service.name)
    try:
        with pytest.raises(LocalError, match=r"Vault does not answer .*; run `make up` first"):
            tokens.mint("acme", ["acme"])
    finally:
        supervisor.start(service, console)
