"""A workspace that moves between a machine and a tier without machines is there as a whole, both ways."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.agent_runtime import arrival, handover, upload
from services.agent_runtime.files import FolderFiles
from services.agent_runtime.handover import MANIFEST, hand_over, take_in
from services.agent_runtime.identity import NotReadyError
from tests.services.agent_runtime import runtimes
from tests.services.agent_runtime.answering import serving
from tests.services.agent_runtime.conftest import BUCKET, Storage
from tests.services.agent_runtime.runtimes import ask
from tests.services.agent_runtime.test_files import Vault, in_prefix

MONDAY = 1_790_000_000.25


@pytest.fixture
def volume(tmp_path: Path) -> FolderFiles:
    """A volume as it is at a machine's first start."""
    folder = tmp_path / "volume"
    folder.mkdir()
    (folder / "lost+found").mkdir()
    return FolderFiles(folder)


@pytest.fixture
def vault(storage: Storage) -> Any:
    return Vault(storage.secret("acme"))


def written(volume: FolderFiles, name: str, content: bytes, mode: int = 0o644) -> Path:
    path = volume.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    os.utime(path, (MONDAY, MONDAY))
    return path


def manifest(storage: Storage) -> dict[str, Any]:
    found = storage.owner.get_object(Bucket=BUCKET, Key=f"tenant_acme/{MANIFEST}")
    said: dict[str, Any] = json.loads(found["Body"].read())
    return said


def has_manifest(storage: Storage) -> bool:
    return bool(storage.keys(f"tenant_acme/{MANIFEST}"))


def contents(volume: FolderFiles) -> dict[str, bytes | None]:
    """All files, and all folders as None."""
    root = volume.folder
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
        if path.name != "lost+found"
    }


def test_what_lies_in_the_prefix_is_on_the_volume_and_no_longer_there(
    storage: Storage, volume: FolderFiles, vault: Any
) -> None:
    prefix = in_prefix(storage.secret("acme"))
    prefix.write("notes/a.txt", [b"first"])
    prefix.write("large", [bytes(upload.PART), b"end"])

    take_in(volume, vault)

    assert contents(volume) == {"notes": None, "notes/a.txt": b"first", "large": bytes(upload.PART) + b"end"}
    assert storage.keys() == [""]
    assert volume.noted() == "here"


def test_all_of_a_volume_lies_in_the_prefix_and_the_manifest_counts_it(
    storage: Storage, volume: FolderFiles, vault: Any
) -> None:
    written(volume, "notes/a.txt", b"first")
    written(volume, "large", bytes(upload.PART) + b"end")
    (volume.folder / "empty").mkdir()

    hand_over(volume, vault)

    prefix = in_prefix(storage.secret("acme"))
    assert prefix.read("notes/a.txt") == b"first"
    assert storage.keys() == ["", "empty/", "large", "notes/a.txt"]
    said = manifest(storage)
    assert (said["state"], said["files"], said["bytes"]) == ("done", 2, len(b"first") + upload.PART + 3)


def test_after_both_ways_a_file_has_its_time_and_its_mode(
    storage: Storage, volume: FolderFiles, vault: Any, tmp_path: Path
) -> None:
    written(volume, "bin/tool", b"#!/bin/sh", 0o755)
    (volume.folder / "empty").mkdir()
    hand_over(volume, vault)
    (tmp_path / "other").mkdir()
    other = FolderFiles(tmp_path / "other")

    take_in(other, vault)

    assert contents(other) == contents(volume)
    tool = (other.folder / "bin/tool").stat()
    assert (stat.S_IMODE(tool.st_mode), tool.st_mtime) == (0o755, MONDAY)


names = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/\\"), min_size=1, max_size=20
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=st.dictionaries(st.lists(names, min_size=1, max_size=3).map(tuple), st.binary(max_size=50)))
def test_whatever_a_volume_holds_comes_back_or_is_named_as_being_in_the_way(
    tree: dict[tuple[str, ...], bytes], storage: Storage, tmp_path_factory: pytest.TempPathFactory, vault: Any
) -> None:
    volume, other = (FolderFiles(tmp_path_factory.mktemp("volume")) for _ in range(2))
    for name, content in tree.items():
        try:
            written(volume, "/".join(name), content)
        except OSError:
            continue  # a file is a folder already, or has no such name on a disk
    hand_over(volume, vault)
    said = manifest(storage)
    if said["state"] == "done":
        take_in(other, vault)
        assert contents(other) == contents(volume)
    else:
        assert said["files"] >= 1 and said["named"]
        assert storage.keys() == [""]


def test_what_a_prefix_cannot_hold_is_named_and_nothing_is_handed_over(
    storage: Storage, volume: FolderFiles, vault: Any
) -> None:
    written(volume, "notes/a.txt", b"first")
    (volume.folder / "link").symlink_to("notes/a.txt")
    os.mkfifo(volume.folder / "pipe")
    written(volume, "back\\slash", b"")
    written(volume, "new\nline", b"")

    hand_over(volume, vault)

    said = manifest(storage)
    assert (said["state"], said["files"]) == ("refused", 4)
    assert [line.split(":")[0] for line in sorted(said["named"])] == [
        "'back\\\\slash'",
        "'link'",
        "'new\\nline'",
        "'pipe'",
    ]
    assert "'link': is a symbolic link" in said["named"]
    assert storage.keys() == [""]
    assert volume.noted() == "here"


def test_an_interrupted_handover_goes_on_where_it_was(
    storage: Storage, volume: FolderFiles, vault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        written(volume, f"file-{number}", b"%d" % number)
    put, sent = upload.put, list[str]()

    def failing(*arguments: Any, **more: Any) -> None:
        if len(sent) >= 10:
            raise NotReadyError("Object storage does not answer.")
        sent.append(arguments[3])
        put(*arguments, **more)

    monkeypatch.setattr(upload, "put", failing)
    monkeypatch.setattr(handover, "_AT_ONCE", 1)
    with pytest.raises(NotReadyError):
        hand_over(volume, vault)
    assert manifest(storage)["state"] == "at work"
    monkeypatch.setattr(upload, "put", put)
    hand_over(volume, vault)

    assert sorted(storage.keys()) == ["", *sorted(f"file-{number}" for number in range(20))]
    assert manifest(storage)["files"] == 20


def test_a_machine_that_serves_again_after_a_handover_takes_its_workspace_back(
    storage: Storage, volume: FolderFiles, vault: Any
) -> None:
    written(volume, "a", b"on both")
    hand_over(volume, vault)

    take_in(volume, vault)

    assert contents(volume) == {"a": b"on both"}
    assert storage.keys() == [""]
    assert not has_manifest(storage), "it would say that a volume that changes is in the prefix"


def test_of_two_files_of_one_name_the_newer_stays(storage: Storage, volume: FolderFiles, vault: Any) -> None:
    prefix = in_prefix(storage.secret("acme"))
    for name in ("older-here", "newer-here"):
        prefix.write(name, [b"prefix"])
    written(volume, "older-here", b"volume")
    os.utime(written(volume, "newer-here", b"volume"), (4e9, 4e9))

    take_in(volume, vault)

    assert contents(volume) == {"older-here": b"prefix", "newer-here": b"volume"}


@pytest.mark.parametrize("key", ["folder", "file/inside"])
def test_an_object_that_cannot_lie_on_the_volume_under_its_name_stays_in_the_prefix(
    key: str, storage: Storage, volume: FolderFiles, vault: Any
) -> None:
    written(volume, "folder/a", b"volume")
    written(volume, "file", b"volume")
    before = contents(volume)
    storage.owner.put_object(Bucket=BUCKET, Key=f"tenant_acme/workspace/{key}", Body=b"odd")

    take_in(volume, vault)

    assert contents(volume) == before
    assert storage.keys() == ["", key]


@pytest.mark.parametrize(
    "said",
    [{"mtime": "nan", "mode": "9"}, {"mtime": "1e400", "mode": "-1"}, {"mode": "6777"}, {"mtime": "-5"}],
)
def test_odd_metadata_harms_nothing(
    said: dict[str, str], storage: Storage, volume: FolderFiles, vault: Any
) -> None:
    storage.owner.put_object(Bucket=BUCKET, Key="tenant_acme/workspace/a", Body=b"content", Metadata=said)

    take_in(volume, vault)

    found = (volume.folder / "a").stat()
    assert contents(volume) == {"a": b"content"}
    assert stat.S_IMODE(found.st_mode) & ~0o777 == 0
    assert found.st_mtime > 1_700_000_000


def test_what_has_no_room_is_refused_before_anything_moves(
    storage: Storage, volume: FolderFiles, vault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_prefix(storage.secret("acme")).write("a", [b"content"])
    monkeypatch.setattr(handover, "_RESERVED", 2**60)

    with pytest.raises(NotReadyError, match=r"7 bytes are to come .* sizes\.workspaceGib"):
        take_in(volume, vault)
    assert contents(volume) == {}
    assert storage.keys() == ["", "a"]


@pytest.fixture
def machine(storage: Storage, tmp_path: Path) -> Iterator[str]:
    """The address of a machine's runtime whose volume was never used."""
    for vault in serving(runtimes.vault(storage.secret("acme"))):
        server = runtimes.runtime("machine", tmp_path, vault)
        os.removexattr(tmp_path / "workspace", "user.agent-platform.workspace")
        yield from serving(server)


def test_a_machine_shows_its_workspace_once_all_of_it_is_there(storage: Storage, machine: str) -> None:
    prefix = in_prefix(storage.secret("acme"))
    for number in range(30):
        prefix.write(f"file-{number}", [b"content"])

    status, listed = ask("GET", f"{machine}/v1/files/")

    assert (status, len(json.loads(listed)["files"])) == (200, 30)


def test_a_machine_whose_workspace_is_on_its_way_says_so_and_is_ready(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "_PATIENCE", 0.1)
    nowhere = {**storage.secret("acme"), "endpoint": "http://127.0.0.1:9"}
    for vault in serving(runtimes.vault(nowhere)):
        server = runtimes.runtime("machine", tmp_path, vault)
        os.removexattr(tmp_path / "workspace", "user.agent-platform.workspace")
        for url in serving(server):
            assert ask("GET", f"{url}/readyz")[0] == 200
            for _ in range(2):
                status, said = ask("PUT", f"{url}/v1/files/a", body=b"content")
                assert status == 503
                assert b"The workspace is " in said
    assert list((tmp_path / "workspace").iterdir()) == []


def test_a_workspace_that_is_here_is_used_without_object_storage(storage: Storage, tmp_path: Path) -> None:
    nowhere = {**storage.secret("acme"), "endpoint": "http://127.0.0.1:9"}
    for vault in serving(runtimes.vault(nowhere)):
        for url in serving(runtimes.runtime("machine", tmp_path, vault)):
            assert ask("PUT", f"{url}/v1/files/a", body=b"content")[0] == 201


def test_what_comes_to_the_prefix_late_is_taken_in_by_the_next_process(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "_LATE_AFTER", 0.0)
    in_prefix(storage.secret("acme")).write("late", [b"content"])
    for vault in serving(runtimes.vault(storage.secret("acme"))):
        server = runtimes.runtime("machine", tmp_path, vault)
        for url in serving(server):
            assert ask("GET", f"{url}/v1/files/")[0] == 200
            tenant = server.tenants.only()
            work = tenant.context._arrival and tenant.context._arrival._work
            assert work
            work.join(30)
            assert ask("GET", f"{url}/v1/files/late") == (200, b"content")
