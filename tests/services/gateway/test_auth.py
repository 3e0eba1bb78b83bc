"""Who gets in, and that nobody else wakes anything."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.gateway import hosts
from tests.services.gateway import harness
from tests.services.gateway.harness import DOMAIN, Gateway, token
from tests.services.valkey import Valkey

COOKIE = "__Host-agent-platform"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, server: Valkey) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp("gateway")
    server.set_clock(time.time())
    with harness.gateway(folder, server) as running:
        yield running


def ask(gateway: Gateway, path: str = "/", **options: Any) -> httpx.Response:
    method, host = options.pop("method", "GET"), options.pop("host", gateway.authority())
    headers = {"Host": host, **options.pop("headers", {})}
    with httpx.Client(verify=gateway.trust(), base_url=gateway.base, trust_env=False, timeout=20) as client:
        return client.request(method, path, headers=headers, **options)


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "a.b.c",
        token("globex"),
        token("acme", key="globex"),
        token("acme", exp=time.time() - 3600),
        token("acme", exp=time.time() + 48 * 3600),
        token("acme", exp=None),
        token("acme", sub="two words"),
        token("acme", sub="line\nbreak"),
        token("acme", aud=["acme", "globex"]),
        token("acme").rpartition(".")[0] + ".",
    ],
)
def test_a_token_that_is_none_of_the_tenants_wakes_nothing(gateway: Gateway, bad: str | None) -> None:
    gateway.places.asked.clear()
    headers = {} if bad is None else {"Authorization": f"Bearer {bad}"}
    assert ask(gateway, headers=headers).status_code == 401
    assert gateway.places.asked == []


def test_a_browser_signs_in_with_a_form(gateway: Gateway) -> None:
    page = ask(gateway, "/deep?x=1", headers={"Accept": "text/html"})
    assert page.status_code == 401 and "<form" in page.text
    form = {"token": token("acme"), "target": "/deep?x=1"}
    signed = ask(gateway, "/.gateway/sign-in", method="POST", data=form)
    assert (signed.status_code, signed.headers["location"]) == (303, "/deep?x=1")
    crumb = signed.headers["set-cookie"]
    assert crumb.startswith(f"{COOKIE}=") and "HttpOnly" in crumb and "Secure" in crumb
    assert "domain" not in crumb.lower()
    assert ask(gateway, headers={"Cookie": crumb.partition(";")[0]}).status_code == 200
    for target in ("//evil.example", "https://evil.example", "/\\evil.example"):
        signed = ask(gateway, "/.gateway/sign-in", method="POST", data={**form, "target": target})
        assert signed.headers["location"] == "/"
    wrong = ask(gateway, "/.gateway/sign-in", method="POST", data={"token": token("globex")})
    assert wrong.status_code == 401 and "set-cookie" not in wrong.headers


def test_a_neighbours_page_cannot_use_the_cookie(gateway: Gateway) -> None:
    mine = {"Cookie": f"{COOKIE}={token('acme')}"}
    theirs = f"https://{gateway.authority('globex')}"
    own = f"https://{gateway.authority()}"
    assert ask(gateway, method="POST", headers={**mine, "Origin": own}).status_code == 200
    assert ask(gateway, method="POST", headers={**mine, "Origin": theirs}).status_code == 403
    assert ask(gateway, method="POST", headers=mine).status_code == 403
    assert ask(gateway, headers={**mine, "Origin": theirs}).status_code == 403
    embedded = {**mine, "Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}
    assert ask(gateway, headers=embedded).status_code == 403
    followed = {**mine, "Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate"}
    assert ask(gateway, headers={**followed, "Sec-Fetch-Dest": "document"}).status_code == 200
    for frame in ("iframe", "frame", "embed", "object"):
        assert ask(gateway, headers={**followed, "Sec-Fetch-Dest": frame}).status_code == 403


def test_the_gateways_own_paths_never_reach_an_agent(gateway: Gateway) -> None:
    gateway.agent.requests.clear()
    headers = {"Authorization": f"Bearer {token('acme')}"}
    for path in ("/.gateway/", "/.gateway/other", "/.gateway/sign-in"):
        ask(gateway, path, headers=headers)
    assert gateway.agent.requests == []


def test_operators_and_tenants_do_not_meet(gateway: Gateway) -> None:
    console = gateway.authority("console")
    assert ask(gateway, host=console, headers={"Authorization": f"Bearer {token('acme')}"}).status_code == 401
    answer = ask(gateway, host=console, headers={"Authorization": f"Bearer {token('console')}"})
    assert answer.text == "the operators' page"
    assert ask(gateway, headers={"Authorization": f"Bearer {token('console')}"}).status_code == 401


@pytest.mark.parametrize(
    "host",
    [
        DOMAIN,
        f"nobody.{DOMAIN}",
        f"a.acme.{DOMAIN}",
        f"acme.{DOMAIN}.",
        f"acme.{DOMAIN}.evil.example",
        f"acme.{DOMAIN}@evil.example",
        "acme",
        "127.0.0.1",
        "[::1]:443",
        f"acme.{DOMAIN}:x",
        f"acme.{DOMAIN}:1:2",
        f".{DOMAIN}",
    ],
)
def test_what_is_not_exactly_a_tenants_host_is_nobodys(gateway: Gateway, host: str) -> None:
    answer = ask(gateway, host=host, headers={"Authorization": f"Bearer {token('acme')}"})
    assert (answer.status_code, answer.text) == (404, "There is nothing at this address.\n")


def test_hosts() -> None:
    assert hosts.label("ACME.Agents.localhost", DOMAIN) == "acme"
    assert hosts.label("acme.agents.localhost:8443", DOMAIN) == "acme"
    assert hosts.label("acme.agents.localhost:\u0661", DOMAIN) is None
    assert hosts.label("\u212acme.agents.localhost", DOMAIN) is None
