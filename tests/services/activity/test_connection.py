"""The connection to Redis, as a container's environment describes it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from services.activity.connection import UNREACHABLE, connect
from tests.services.gateway.harness import make_certificate
from tests.services.valkey import PASSWORD, Valkey

Connecting = Callable[..., Redis]


@pytest.fixture
def connecting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Connecting:
    """Connects as the gateway with that URL and authority."""

    def build(url: str, authority: Path | None = None, password: str = PASSWORD) -> Redis:
        (tmp_path / "password").write_text(f"{password}\n")
        monkeypatch.setenv("REDIS_URL", url)
        monkeypatch.setenv("REDIS_PASSWORD_FILE", str(tmp_path / "password"))
        if authority:
            monkeypatch.setenv("REDIS_CA_FILE", str(authority))
        return connect()

    return build


@asynccontextmanager
async def encrypted(server: Valkey, folder: Path) -> AsyncIterator[int]:
    """A port at which TLS ends before the server."""
    make_certificate(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while block := await reader.read(2**16):
            writer.write(block)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pass_on(reader, inner_writer), pass_on(inner_reader, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as listening:
        yield listening.sockets[0].getsockname()[1]


def test_many_who_come_at_once_wait_for_a_connection(server: Valkey, connecting: Connecting) -> None:
    async def check() -> None:
        async with connecting(f"redis://gateway@127.0.0.1:{server.port}") as client:
            assert await asyncio.gather(*(client.ping() for _ in range(1000))) == [True] * 1000

    asyncio.run(check())


def test_a_password_that_changed_is_read_for_the_next_connection(
    server: Valkey, connecting: Connecting
) -> None:
    async def check() -> None:
        async with connecting(f"redis://gateway@127.0.0.1:{server.port}", password="old") as client:
            with pytest.raises(UNREACHABLE):
                await client.ping()
            connecting(f"redis://gateway@127.0.0.1:{server.port}")
            assert await client.ping()

    asyncio.run(check())


def test_over_tls_the_server_is_one_that_the_authority_vouches_for(
    server: Valkey, connecting: Connecting, tmp_path: Path
) -> None:
    async def check() -> None:
        async with encrypted(server, tmp_path) as port:
            url = f"rediss://gateway@127.0.0.1:{port}"
            async with connecting(url) as stranger:
                with pytest.raises(UNREACHABLE):
                    await stranger.ping()
            async with connecting(url, tmp_path / "tls.crt") as client:
                assert await client.ping()

    asyncio.run(check())
