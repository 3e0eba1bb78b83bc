"""The relay between real sockets."""

import asyncio
import contextlib
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from local.load_balancer.relay import Address, Relay

Handler = Callable[[StreamReader, StreamWriter], Awaitable[None]]
MEBIBYTE = 2**20


def run(test: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test

    asyncio.run(bounded())


@contextlib.asynccontextmanager
async def backend(handle: Handler) -> AsyncIterator[Address]:
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()


@contextlib.asynccontextmanager
async def relay(backends: list[Address], limit: int = 100) -> AsyncIterator[int]:
    server = await Relay(lambda: backends, limit).listen("127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def says(word: bytes) -> Handler:
    async def handle(_reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(word)
        writer.close()

    return handle


async def echo(reader: StreamReader, writer: StreamWriter) -> None:
    """Answers when it has all: it needs the client's half-close."""
    writer.write(await reader.read())
    writer.close()


async def heard(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await reader.read()
    finally:
        writer.close()


def unused() -> Address:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address: Address = probe.getsockname()
        return address


def test_backends_take_turns() -> None:
    async def test() -> None:
        async with backend(says(b"one")) as one, backend(says(b"two")) as two, relay([one, two]) as port:
            assert [await heard(port) for _ in range(4)] == [b"one", b"two", b"one", b"two"]

    run(test())


def test_a_backend_that_is_gone_is_passed_over() -> None:
    async def test() -> None:
        async with backend(says(b"one")) as one, relay([unused(), one]) as port:
            assert [await heard(port) for _ in range(4)] == [b"one"] * 4

    run(test())


def test_without_a_backend_the_connection_is_closed() -> None:
    async def test() -> None:
        async with relay([]) as port:
            assert await heard(port) == b""

    run(test())


def test_the_answer_comes_after_the_client_has_sent_its_last() -> None:
    async def test() -> None:
        async with backend(echo) as address, relay([address]) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            sent = bytes(range(256)) * (8 * MEBIBYTE // 256)
            writer.write(sent)
            writer.write_eof()
            assert await reader.read() == sent
            writer.close()

    run(test())


def test_a_backend_that_does_not_read_holds_the_client_back() -> None:
    async def test() -> None:
        reads = asyncio.Event()
        counted = asyncio.Queue[int]()

        async def slow(reader: StreamReader, writer: StreamWriter) -> None:
            await reads.wait()
            counted.put_nowait(len(await reader.read()))
            writer.close()

        async with backend(slow) as address, relay([address]) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(bytes(64 * MEBIBYTE))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await writer.drain()
            reads.set()
            await writer.drain()
            writer.write_eof()
            assert await counted.get() == 64 * MEBIBYTE
            writer.close()

    run(test())


def test_the_backend_learns_that_the_client_is_lost() -> None:
    async def test() -> None:
        lost = asyncio.Event()

        async def waits(reader: StreamReader, writer: StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while await reader.read(1):
                    pass
            lost.set()
            writer.close()

        async with backend(waits) as address, relay([address]) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"x")
            await writer.drain()
            writer.transport.abort()
            await lost.wait()

    run(test())


def test_a_connection_above_the_limit_is_refused_and_the_next_taken_when_one_has_ended() -> None:
    async def test() -> None:
        async with backend(echo) as address, relay([address], limit=1) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"first")
            await writer.drain()
            with contextlib.suppress(ConnectionError):
                assert await heard(port) == b""
            writer.write_eof()
            assert await reader.read() == b"first"
            writer.close()
            while True:
                with contextlib.suppress(ConnectionError):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(b"second")
                    writer.write_eof()
                    if await reader.read() == b"second":
                        writer.close()
                        break

    run(test())
