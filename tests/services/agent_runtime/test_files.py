"""A workspace keeps files, in a machine's folder and in a tenant's prefix alike."""

import http.client
import socket
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from local.servers import object_storage
from services.agent_runtime import prefix_files, upload
from services.agent_runtime.files import AbsentError, File, Files, FolderFiles, RefusedPathError
from services.agent_runtime.identity import NotReadyError
from services.agent_runtime.prefix_files import PrefixFiles
from tests.services.agent_runtime import runtimes
from tests.services.agent_runtime.answering import serving
from tests.services.agent_runtime.conftest import BUCKET, Storage
from tests.services.agent_runtime.runtimes import ask, said_of

MIB = 2**20


class Vault:
    """Gives the key to object storage, and the address under which it is reached from here."""

    def __init__(self, said: dict[str, str], endpoint: str | None = None) -> None:
        self.said = said
        self.object_storage = endpoint

    def needed(self, _: str) -> dict[str, str]:
        return self.said


def in_prefix(said: dict[str, str], folder: Path = Path("/nowhere")) -> PrefixFiles:
    return PrefixFiles(Vault(said), folder)  # type: ignore[arg-type]


def test_a_machine_reaches_object_storage_its_own_way_and_gives_away_the_way_of_all(storage: Storage) -> None:
    said = {**storage.secret("acme"), "endpoint": "https://storage.example"}
    files = PrefixFiles(Vault(said, object_storage.url()), Path("/nowhere"))  # type: ignore[arg-type]

    files.write("a", [b"content"])

    assert files.read("a") == b"content"
    assert files.address("a", 60).startswith("https://storage.example/artifacts/tenant_acme/workspace/a?")


@pytest.fixture
def prefix(storage: Storage) -> PrefixFiles:
    return in_prefix(storage.secret("acme"))


@pytest.fixture(params=["folder", "prefix"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    if request.param == "folder":
        (tmp_path / "workspace").mkdir()
        return FolderFiles(tmp_path / "workspace")
    found: PrefixFiles = request.getfixturevalue("prefix")
    return found


@pytest.fixture
def vault(storage: Storage) -> Iterator[str]:
    yield from serving(runtimes.vault(storage.secret("acme")))


@pytest.mark.parametrize("kind", ["machine", "own", "shared"])
def test_what_is_written_is_there_until_it_is_deleted(kind: str, tmp_path: Path, vault: str) -> None:
    for url in serving(runtimes.runtime(kind, tmp_path, vault)):
        assert ask("PUT", f"{url}/v1/files/notes/a.txt", body=b"kept")[0] == 201
        assert ask("PUT", f"{url}/v1/files/notes/b.txt", body=iter([b"sent in ", b"chunks"]))[0] == 201
        assert ask("GET", f"{url}/v1/files/notes/b.txt") == (200, b"sent in chunks")
        assert ask("GET", f"{url}/v1/files/") == (200, b'{"files": ["notes/"], "more": false}\n')
        assert ask("DELETE", f"{url}/v1/files/notes/a.txt")[0] == 200
        assert ask("GET", f"{url}/v1/files/notes/a.txt")[0] == 404
        assert ask("GET", f"{url}/v1/files/notes") == (200, b'{"files": ["b.txt"], "more": false}\n')
        assert ask("DELETE", f"{url}/v1/files/notes")[0] == 200
        assert ask("GET", f"{url}/v1/files/notes")[0] == 404


@pytest.mark.parametrize("kind", ["own", "shared"])
def test_every_replica_has_the_same_files_and_so_has_the_next(kind: str, tmp_path: Path, vault: str) -> None:
    for first in serving(runtimes.runtime(kind, tmp_path / "first", vault)):
        for second in serving(runtimes.runtime(kind, tmp_path / "second", vault)):
            assert ask("PUT", f"{first}/v1/files/a", body=b"kept")[0] == 201
            assert [ask("GET", f"{url}/v1/files/a") for url in (first, second)] == [(200, b"kept")] * 2
    for later in serving(runtimes.runtime(kind, tmp_path / "later", vault)):
        assert ask("GET", f"{later}/v1/files/a") == (200, b"kept")


def test_a_pod_keeps_nothing_of_a_workspace(tmp_path: Path, vault: str) -> None:
    for url in serving(runtimes.runtime("shared", tmp_path, vault)):
        assert ask("PUT", f"{url}/v1/files/a", body=bytes(9 * MIB))[0] == 201
        assert ask("GET", f"{url}/v1/files/a")[0] == 200
    assert [path.name for path in tmp_path.rglob("*")] == ["token"]


@pytest.mark.parametrize("size", [0, 1, upload.PART - 1, upload.PART, 2 * upload.PART + 1])
def test_a_file_of_any_size_comes_back_as_it_went(prefix: PrefixFiles, size: int) -> None:
    content = (bytes(range(251)) * (size // 251 + 1))[:size]
    prefix.write("a", [content[at : at + 65_536] for at in range(0, size, 65_536)])
    found = prefix.find("a")
    assert isinstance(found, File)
    with closing(found.content):
        assert (found.size, b"".join(iter(lambda: found.content.read(MIB), b""))) == (size, content)


def test_a_file_on_its_way_takes_little_memory(prefix: PrefixFiles) -> None:
    prefix.write("warm", [b"up"])
    tracemalloc.start()
    try:
        prefix.write("large", (bytes(65_536) for _ in range(512)))
        found = prefix.find("large")
        assert isinstance(found, File)
        with closing(found.content):
            assert sum(map(len, iter(lambda: found.content.read(65_536), b""))) == 32 * MIB
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("before", [None, b"as it was"])
@pytest.mark.parametrize("blocks", [1, 200, 400])
def test_a_write_that_is_cut_off_leaves_what_was_there(
    files: Files, storage: Storage, before: bytes | None, blocks: int
) -> None:
    def cut_off() -> Iterator[bytes]:
        yield from (bytes(65_536) for _ in range(blocks))
        raise ConnectionError("gone")

    if before:
        files.write("a", [before])
    with pytest.raises(ConnectionError, match="gone"):
        files.write("a", cut_off())
    if before:
        assert files.read("a") == before
    assert files.listed().names == (["a"] if before else [])
    assert storage.unfinished() == []


@pytest.mark.parametrize("kind", ["machine", "shared"])
@pytest.mark.parametrize(
    "sent",
    [
        b"Content-Length: 20000000\r\n\r\n" + bytes(10_000_000),
        b"Transfer-Encoding: chunked\r\n\r\n1000000\r\n" + bytes(2**24) + b"\r\n",
    ],
    ids=["within its length", "between two chunks"],
)
def test_a_client_that_goes_away_has_written_nothing(
    kind: str, sent: bytes, tmp_path: Path, vault: str, storage: Storage
) -> None:
    for url in serving(runtimes.runtime(kind, tmp_path, vault)):
        with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=30) as client:
            head = ["PUT /v1/files/a HTTP/1.1", "Host: a", *map(": ".join, said_of("acme").items()), ""]
            client.sendall("\r\n".join(head).encode() + sent)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1000) == b"", "was answered"
        assert ask("GET", f"{url}/v1/files/a")[0] == 404
        assert ask("GET", f"{url}/v1/files/") == (200, b'{"files": [], "more": false}\n')
    assert storage.unfinished() == []


def test_an_upload_that_nobody_ended_is_ended_by_the_next(
    prefix: PrefixFiles, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tenant in ("acme", "globex"):
        storage.owner.create_multipart_upload(Bucket=BUCKET, Key=f"tenant_{tenant}/workspace/left")
    prefix.write("large", [bytes(upload.PART)])
    assert len(storage.unfinished()) == 2, "one that may be under way was ended"
    monkeypatch.setattr(upload, "_ABANDONED", timedelta(0))
    prefix.write("large", [bytes(upload.PART)])
    assert storage.unfinished() == ["tenant_globex/workspace/left"]
    storage.owner.abort_multipart_upload(
        Bucket=BUCKET,
        Key="tenant_globex/workspace/left",
        UploadId=storage.owner.list_multipart_uploads(Bucket=BUCKET)["Uploads"][0]["UploadId"],
    )


def test_a_tenant_writes_so_many_files_at_once(
    prefix: PrefixFiles, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "_AT_ONCE", 1)
    monkeypatch.setattr(upload, "_PATIENCE", 0.0)

    def during() -> Iterator[bytes]:
        with pytest.raises(NotReadyError, match="are being written"):
            prefix.write("b", [b"one too many"])
        in_prefix(storage.secret("globex")).write("b", [b"another's"])
        yield b"kept"

    prefix.write("a", during())
    prefix.write("c", [b"later"])
    assert prefix.listed().names == ["a", "c"]


@pytest.mark.parametrize(
    ("name", "same"),
    [("/a/b", "a/b"), ("a//b", "a/b"), ("./a/./b", "a/b"), ("c/../a/b", "a/b"), ("a/b/", "a/b")],
)
def test_a_path_may_be_written_in_many_ways(files: Files, name: str, same: str) -> None:
    files.write(name, [b"kept"])
    assert files.read(same) == b"kept"


@pytest.mark.parametrize(
    "name", ["sp ace", " a ", "ü", "u\u0308", "😀", "a+b%41&c=d?e#f", "<&>\"'", "...", "..a", "*", "x" * 255]
)
def test_a_name_is_kept_as_it_is(files: Files, name: str) -> None:
    files.write(f"odd/{name}", [b"kept"])
    assert files.listed("odd").names == [name]
    assert files.read(f"odd/{name}") == b"kept"
    files.delete("odd")
    assert files.listed().names == []


@pytest.mark.parametrize("name", ["../a", "..", "a/../../b", "a\0b", "x" * 256, "ü" * 128])
def test_a_path_that_leads_nowhere_is_refused(files: Files, name: str) -> None:
    for doing in (files.find, files.delete, lambda path: files.write(path, [b"lost"])):
        with pytest.raises(RefusedPathError):
            doing(name)
    assert files.listed().names == []


@pytest.mark.parametrize(
    "name", ["a\x01b", "a\nb", "a\x7fb", "a\x85b", "a\\b", "\ud800", "\uffff", "a.versions/b", "x/" * 600]
)
def test_a_name_that_storage_would_not_keep_is_refused(prefix: PrefixFiles, name: str) -> None:
    with pytest.raises(RefusedPathError):
        prefix.write(name, [b"lost"])
    assert prefix.listed().names == []


def test_a_file_is_no_folder_and_a_folder_no_file(files: Files) -> None:
    files.write("a/b", [b"kept"])
    for name in ("a", "a/b/c", "a/b/c/d", ""):
        with pytest.raises(RefusedPathError):
            files.write(name, [b"lost"])
    with pytest.raises(RefusedPathError):
        files.listed("a/b")
    with pytest.raises(RefusedPathError):
        files.read("a")
    assert (files.listed().names, files.listed("a").names, files.read("a/b")) == (["a/"], ["b"], b"kept")


def test_what_is_not_there_is_told(files: Files) -> None:
    files.write("ab", [b"kept"])
    for doing in (files.find, files.delete, files.listed, files.read):
        with pytest.raises(AbsentError, match="a: there is no such file"):
            doing("a")
    with pytest.raises(RefusedPathError, match="stays"):
        files.delete("/")
    assert files.read("ab") == b"kept"


def test_a_folder_goes_with_all_in_it_and_with_nothing_else(files: Files) -> None:
    for name in ("a/b", "a/c/d", "ab", "b"):
        files.write(name, [b"kept"])
    files.delete("a")
    assert files.listed().names == ["ab", "b"]


def test_a_folder_may_be_empty(prefix: PrefixFiles, storage: Storage) -> None:
    storage.owner.put_object(Bucket=BUCKET, Key="tenant_acme/workspace/made/", Body=b"")
    assert prefix.listed().names == ["made/"]
    assert prefix.listed("made").names == []
    prefix.delete("made")
    assert prefix.listed().names == []


def test_a_long_list_says_that_there_is_more(prefix: PrefixFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_files, "_MOST_NAMES", 2)
    for name in "abc":
        prefix.write(name, [b""])
    assert (prefix.listed().names, prefix.listed().more) == (["a", "b"], True)
    prefix.delete("c")
    assert (prefix.listed().names, prefix.listed().more) == (["a", "b"], False)


def test_an_agent_reads_no_file_that_fills_its_memory(files: Files) -> None:
    files.write("a", [bytes(MIB + 1)])
    with pytest.raises(RefusedPathError, match="never read"):
        files.read("a")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"endpoint": "http://127.0.0.1:9"}, "does not answer"),
        ({"secret_key": "wrong"}, "refuses"),
        ({"prefix": "tenant_globex/"}, "refuses"),
        ({"bucket": "nowhere"}, "refuses"),
        ({"access_key": ""}, "lacks access_key"),
    ],
)
def test_storage_that_is_away_or_refuses_is_told(
    storage: Storage, changed: dict[str, str], told: str
) -> None:
    files = in_prefix({**storage.secret("acme"), **changed})
    for doing in (files.find, files.delete, lambda path: files.write(path, [b"lost"])):
        with pytest.raises(NotReadyError, match=told):
            doing("a")
    assert storage.keys("tenant_") == ["acme/workspace/", "globex/workspace/"]


def test_a_machine_needs_no_object_storage(tmp_path: Path) -> None:
    for away in serving(runtimes.vault({})):
        for url in serving(runtimes.runtime("machine", tmp_path, away)):
            assert ask("PUT", f"{url}/v1/files/a", body=b"kept")[0] == 201
        for url in serving(runtimes.runtime("own", tmp_path / "own", away)):
            status, said = ask("PUT", f"{url}/v1/files/a", body=b"lost")
            assert (status, b"lacks endpoint" in said) == (503, True)


class _BreakingOff(BaseHTTPRequestHandler):
    """Object storage that goes away in the middle of a file."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.wfile.write(bytes(500_000))

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_file_that_breaks_off_does_not_look_whole(tmp_path: Path, storage: Storage) -> None:
    for broken in serving(ThreadingHTTPServer(("127.0.0.1", 0), _BreakingOff)):
        said = {**storage.secret("acme"), "endpoint": broken}
        for vault in serving(runtimes.vault(said)):
            for url in serving(runtimes.runtime("shared", tmp_path, vault)):
                with pytest.raises(http.client.IncompleteRead):
                    ask("GET", f"{url}/v1/files/a")
