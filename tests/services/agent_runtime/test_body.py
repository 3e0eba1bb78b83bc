"""A body is read to its end and no further, and what is framed otherwise is refused."""

import io
from email.message import Message

import pytest

from services.agent_runtime.body import BadRequestError, Body

CHUNKED = {"Transfer-Encoding": "chunked"}


def body(headers: dict[str, str], content: bytes) -> Body:
    said = Message()
    for name, value in headers.items():
        said[name] = value
    return Body(said, io.BytesIO(content))


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({"Content-Length": "5"}, b"kept!GET / HTTP/1.1"),
        (CHUNKED, b"4\r\nkept\r\n1;a=b\r\n!\r\n0\r\n\r\nGET / HTTP/1.1"),
        (CHUNKED, b"05 \r\nkept!\r\n0\r\nTrailer: x\r\n\r\nGET / HTTP/1.1"),
    ],
)
def test_nothing_is_read_beyond_its_end(headers: dict[str, str], content: bytes) -> None:
    connection = io.BytesIO(content)
    said = Message()
    for name, value in headers.items():
        said[name] = value
    read = Body(said, connection)
    assert b"".join(read.blocks()) == b"kept!"
    assert (read.ended, connection.read()) == (True, b"GET / HTTP/1.1")


@pytest.mark.parametrize(
    "content",
    [
        b"-1\r\nkept and all that follows",
        b"+4\r\nkept\r\n0\r\n\r\n",
        b"0x4\r\nkept\r\n0\r\n\r\n",
        b"4_0\r\n",
        b" 4\r\nkept\r\n0\r\n\r\n",
        b"four\r\n",
        b"\r\n",
        b"f" * 16 + b"\r\n",
        b"1" * 5000 + b"\r\n",
        b"4\nkept\r\n0\r\n\r\n",
        b"4\r\nkept, and more\r\n0\r\n\r\n",
        b"0\r\n" + b"a: b\r\n" * 1000 + b"\r\n",
    ],
)
def test_chunks_that_are_none_are_refused(content: bytes) -> None:
    with pytest.raises(BadRequestError):
        list(body(CHUNKED, content).blocks())


@pytest.mark.parametrize("content", [b"", b"4\r\nke", b"4\r\nkept", b"4\r\nkept\r\n", b"4\r\nkept\r\n0\r\n"])
def test_chunks_that_end_early_are_no_whole_body(content: bytes) -> None:
    with pytest.raises(ConnectionError):
        list(body(CHUNKED, content).blocks())


@pytest.mark.parametrize("length", ["-1", "+5", "5_0", " 5 5", "0x5", "\u0665", "", "9" * 5000, "5, 5"])
def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    with pytest.raises(BadRequestError):
        body({"Content-Length": length}, b"kept!")


@pytest.mark.parametrize(
    "headers", [{**CHUNKED, "Content-Length": "5"}, {"Transfer-Encoding": "gzip, chunked"}]
)
def test_a_body_is_framed_in_one_way(headers: dict[str, str]) -> None:
    with pytest.raises(BadRequestError):
        body(headers, b"kept!")


def test_one_that_ends_early_is_no_whole_body() -> None:
    with pytest.raises(ConnectionError):
        list(body({"Content-Length": "5"}, b"kept").blocks())


def test_what_is_announced_by_nobody_is_asked_for() -> None:
    announced = body({}, b"")
    assert announced.ended
    with pytest.raises(BadRequestError, match="send Content-Length"):
        list(announced.blocks())
