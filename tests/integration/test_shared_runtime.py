"""The runtime that starters share: what serves them through the gateway, and what Vault makes of its word.

A tenant whose agents have a pod of their own is asked beside them, where both have to do the same.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import jwt
import pytest
import urllib3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hvac.exceptions import Forbidden, InvalidRequest  # type: ignore[import-untyped]
from kubernetes import client

from tests.integration.belongings import signing_key
from tests.integration.conftest import Platform

pytestmark = pytest.mark.integration

STARTER = "bluebird"
FORGED: dict[str, Any] = {}
"""All that it says is right, and somebody else has signed it."""


Ask = Callable[..., tuple[int, str]]


def asking(platform: Platform, tenant: str) -> Ask:
    """Ask a tenant's agent through the gateway, as its customer."""
    exports = platform.exports()
    host, _, port = exports["GATEWAY"].rpartition(":")
    name = f"{tenant}.{host}"
    pool = urllib3.HTTPSConnectionPool(
        "127.0.0.1",
        int(port),
        server_hostname=name,
        assert_hostname=name,
        ca_certs=exports["GATEWAY_CA"],
        retries=False,
    )
    token = platform.run("token", tenant).stdout.strip()
    headers = {"Host": f"{name}:{port}", "Authorization": f"Bearer {token}"}

    def call(method: str, path: str, body: Any = None, **more: str) -> tuple[int, str]:
        sent = None if body is None else json.dumps(body)
        answer = pool.request(method, path, body=sent, headers={**headers, **more}, timeout=60)
        return answer.status, answer.data.decode()

    return call


@pytest.fixture(scope="module")
def ask(platform: Platform) -> Ask:
    """Ask the starter's agent."""
    return asking(platform, STARTER)


@pytest.mark.parametrize("tenant", [STARTER, "corvus"])
def test_an_agent_remembers_what_an_earlier_request_told_it(platform: Platform, tenant: str) -> None:
    ask = asking(platform, tenant)
    status, said = ask("POST", "/v1/agent", {"prompt": f"remember colour: {tenant}'s blue"})
    assert (status, "event: done" in said) == (200, True), said
    try:
        # In the shared runtime, each may be another replica's.
        for _ in range(3):
            assert f"{tenant}'s" in ask("POST", "/v1/agent", {"prompt": "recall colour"})[1]
        with platform.database() as administrator:
            tables = administrator.execute(
                "SELECT schemaname FROM pg_tables WHERE tablename = 'agent_memory'"
            )
            held = {
                schema: administrator.execute(f"SELECT key FROM {schema}.agent_memory").fetchall()
                for (schema,) in tables.fetchall()
            }
        assert {schema: keys for schema, keys in held.items() if keys} == {f"tenant_{tenant}": [("colour",)]}
    finally:
        ask("POST", "/v1/agent", {"prompt": "forget colour"})


@pytest.mark.parametrize(("tenant", "other"), [(STARTER, "corvus"), ("corvus", STARTER)])
def test_a_conversation_goes_on_wherever_it_is_and_no_other_tenant_finds_it(
    platform: Platform, tenant: str, other: str
) -> None:
    ask, others = asking(platform, tenant), asking(platform, other)
    sessions = [json.loads(ask("POST", "/v1/sessions", {})[1])["id"] for _ in range(20)]
    session = sessions[-1]  # a number that the other tenant has not given
    # In the shared runtime, each may be another replica's.
    for prompt in ("my colour is green", "hello"):
        assert ask("POST", "/v1/agent", {"prompt": prompt, "session": session})[0] == 200
    said = ask("POST", "/v1/agent", {"prompt": "what did I say first?", "session": session})[1]
    assert "my colour is green" in said

    for path in (f"/v1/sessions/{session}", f"/v1/sessions/{session}/messages"):
        assert ask("GET", path)[0] == 200
        assert others("GET", path)[0] == 404
    assert others("POST", "/v1/runs", {"prompt": "hello", "session": session})[0] == 404
    with platform.database() as administrator:
        counted = f"SELECT count(*) FROM tenant_{tenant}.session_messages WHERE session_id = %s"
        assert administrator.execute(counted.encode(), [session]).fetchall() == [(6,)]
    for number in sessions:
        assert ask("DELETE", f"/v1/sessions/{number}")[0] == 204


def test_a_starter_is_answered_and_leaves_no_login_behind(platform: Platform, ask: Ask) -> None:
    def logins() -> set[str]:
        vault, accessors = platform.vault(), set()
        for accessor in vault.list("auth/token/accessors")["data"]["keys"]:
            with suppress(InvalidRequest, Forbidden):  # it has ended meanwhile
                token = vault.lookup_token(accessor, accessor=True)["data"]
                if f"tenant-{STARTER}" in token["policies"]:
                    accessors.add(accessor)
        return accessors

    others = logins()  # of whoever used this platform before
    status, said = ask("POST", "/v1/agent", {"prompt": "write here.txt: a word"})
    assert (status, "event: done" in said) == (200, True), said
    # What a client says of itself is nobody's word.
    status, _ = ask(
        "GET", "/", **{"X-Tenant": "acme", "X-Assertion": "theirs", "X-Gateway": "https://theirs"}
    )
    assert status == 200
    deadline = time.monotonic() + 60
    while left := logins() - others:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"exp": -120, "nbf": -240},
        {"nbf": 120, "exp": 180},
        {"aud": "gateway"},
        {"aud": None},
        {"iss": "somebody"},
        {"tenant": "acme"},
        {"tenant": None},
        FORGED,
    ],
)
def test_vault_takes_no_word_but_the_gateways_for_that_tenant(
    platform: Platform, wrong: dict[str, Any]
) -> None:
    now = time.time()
    said: dict[str, Any] = {
        "iss": "gateway",
        "aud": "vault",
        "sub": "ada",
        "tenant": STARTER,
        "exp": now + 60,
    }

    def enter(key: Any, claims: dict[str, Any]) -> Any:
        given = {name: value for name, value in claims.items() if value is not None}
        shown = jwt.encode(given, key, "EdDSA")
        return platform.vault().write("auth/jwt/login", role=f"tenant-{STARTER}", jwt=shown)

    entered = enter(signing_key(platform), said)["auth"]
    assert (entered["policies"], entered["lease_duration"]) == ([f"tenant-{STARTER}"], 900)
    platform.vault(entered["client_token"]).auth.token.revoke_self()
    moments: dict[str, Any] = {name: now + wrong[name] for name in ("exp", "nbf") if name in wrong}
    key = Ed25519PrivateKey.generate() if wrong == FORGED else signing_key(platform)
    with pytest.raises((InvalidRequest, Forbidden)):
        enter(key, {**said, **wrong, **moments})


def test_the_account_of_the_shared_runtime_is_let_in_as_nobody(platform: Platform) -> None:
    vault = platform.vault()
    request = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=["vault"]))
    issued = platform.core().create_namespaced_service_account_token("agent-runtime", "runtime", request)
    for tenant in (tenant["id"] for tenant in platform.status()["tenants"]):
        with pytest.raises((InvalidRequest, Forbidden)):
            vault.write("auth/kubernetes/login", role=f"tenant-{tenant}", jwt=issued.status.token)
