"""The way to public addresses alone, with servers on several addresses of loopback."""

import asyncio
import contextlib
import gzip
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest

from services.agent_runtime import public
from services.agent_runtime.public import Allowance
from tests.services.agent_runtime.answering import serving

_PUBLIC, _PRIVATE = "127.0.0.2", "127.0.0.1"
"""Two addresses that reach the same server; the tests that need it take the first one for public."""


@pytest.mark.parametrize("address", ["1.1.1.1", "194.182.160.1", "2606:4700:4700::1111"])
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert public.is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "127.0.0.1", "::", "::1", "fd00::1", "fec0::1"),
        *("169.254.169.254", "fe80::1", "fd00:ec2::254"),
        *("100.64.0.1", "100.127.255.254"),
        *("224.0.0.1", "239.1.1.1", "255.255.255.255", "240.0.0.1", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:1.1.1.1", "::127.0.0.1"),
        *("64:ff9b::a00:1", "64:ff9b:1::a00:1", "2002:a00:1::1", "2001:0:a00:1::1"),
        *("192.0.0.9", "192.0.2.1", "192.88.99.1", "198.18.0.1", "203.0.113.1", "2001:db8::1", "100::1"),
    ],
)
def test_an_address_of_a_network_or_a_way_into_one_is_not(address: str) -> None:
    assert not public.is_public(address)


class _Redirecting(BaseHTTPRequestHandler):
    """Says at which address it was reached; `/elsewhere` leads to the private one."""

    def do_GET(self) -> None:
        reached, port = self.connection.getsockname()
        elsewhere = self.path == "/elsewhere"
        self.send_response(302 if elsewhere else 200)
        self.send_header("Location", f"http://{_PRIVATE}:{port}/")
        content = reached.encode()
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    for address in serving(ThreadingHTTPServer(("0.0.0.0", 0), _Redirecting)):
        number = int(address.rpartition(":")[2])
        monkeypatch.setattr(public, "PORT", number)
        monkeypatch.setattr(public, "is_public", lambda address: address == _PUBLIC)
        yield number


def _named(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let every name have these addresses, one list at a time; returns the names that are asked for."""
    asked: list[str] = []
    left = iter(answers)

    def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in next(left)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


async def _get(url: str, allowance: Allowance | None = None) -> str:
    async with public.client(allowance or Allowance(2**20, print)) as client:
        return (await client.get(url)).text


def test_the_address_that_was_checked_is_the_one_that_is_connected_to(
    monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    asked = _named(monkeypatch, [_PUBLIC], [_PRIVATE])

    assert asyncio.run(_get(f"http://name.example:{port}/")) == _PUBLIC
    assert asked == ["name.example"]
    # By now the name leads elsewhere, as it would between a check and a connection of its own.
    with pytest.raises(httpx2.ConnectError, match="is refused"):
        asyncio.run(_get(f"http://name.example:{port}/"))


def test_a_name_of_which_one_address_is_not_public_is_refused(
    monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    _named(monkeypatch, [_PUBLIC, _PRIVATE])

    with pytest.raises(httpx2.ConnectError, match=r"name\.example is refused"):
        asyncio.run(_get(f"http://name.example:{port}/"))


def test_a_redirect_leads_to_public_addresses_alone(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    _named(monkeypatch, [_PUBLIC], [_PRIVATE])

    with pytest.raises(httpx2.ConnectError, match=rf"{_PRIVATE} is refused"):
        asyncio.run(_get(f"http://name.example:{port}/elsewhere"))


class _Large(BaseHTTPRequestHandler):
    """Sends a mebibyte of zeros, compressed at `/gzip`."""

    def do_GET(self) -> None:
        content, encoding = bytes(2**20), self.path.strip("/") or self.headers["Accept-Encoding"]
        self.send_response(200)
        self.send_header("Content-Encoding", encoding)
        self.end_headers()
        if encoding == "gzip":
            content = gzip.compress(content)
        with contextlib.suppress(OSError):
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    for url in serving(ThreadingHTTPServer(("127.0.0.1", 0), _Large)):
        number = int(url.rpartition(":")[2])
        monkeypatch.setattr(public, "PORT", number)
        monkeypatch.setattr(public, "is_public", lambda _: True)
        yield number


def test_what_is_received_is_counted_over_all_answers_and_ends_with_one_word(large: int) -> None:
    words: list[str] = []
    allowance = Allowance(2**20 + 100, words.append)

    assert len(asyncio.run(_get(f"http://127.0.0.1:{large}/", allowance))) == 2**20
    with pytest.raises(httpx2.ReadError, match="have sent more than 1048676 bytes"):
        asyncio.run(_get(f"http://127.0.0.1:{large}/", allowance))
    assert words
    assert "1048676" in words[0]


def test_an_answer_that_would_grow_is_not_taken(large: int) -> None:
    with pytest.raises(httpx2.RemoteProtocolError, match="answers in gzip, which was not asked for"):
        asyncio.run(_get(f"http://127.0.0.1:{large}/gzip"))


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    _named(monkeypatch, [_PUBLIC])
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

    assert asyncio.run(_get(f"http://name.example:{port}/")) == _PUBLIC


@pytest.mark.parametrize(
    "url", ["https://2130706433/", "https://0x7f.1/", "https://[::1]/", "https://localhost/"]
)
def test_no_spelling_of_loopback_is_let_through(url: str) -> None:
    with pytest.raises(httpx2.ConnectError, match="is refused"):
        asyncio.run(_get(url))


def test_no_port_but_that_of_https_is_let_through() -> None:
    with pytest.raises(httpx2.ConnectError, match="only port 443 leads out"):
        asyncio.run(_get("https://one.example:8200/"))
