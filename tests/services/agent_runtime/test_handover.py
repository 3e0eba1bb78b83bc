"""A workspace that moves between a machine and a tier without machines is there as a whole, both ways."""

import dataclasses
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from local.paths import ROOT
from services.agent_runtime import arrival, handover, upload
from services.agent_runtime.context import TenantContext
from services.agent_runtime.files import FolderFiles, RefusedPathError
from services.agent_runtime.handover import MANIFEST, hand_over, take_in
from services.agent_runtime.identity import Identity, NotReadyError, Server
from services.agent_runtime.prefix_files import Place
from services.agent_runtime.settings import Settings
from tests.services.agent_runtime import runtimes
from tests.services.agent_runtime.answering import serving
from tests.services.agent_runtime.conftest import BUCKET, Storage
from tests.services.agent_runtime.runtimes import ask
from tests.services.agent_runtime.test_files import Vault, in_prefix

MACHINE = "first"
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

    take_in(volume, vault, MACHINE)

    assert contents(volume) == {"notes": None, "notes/a.txt": b"first", "large": bytes(upload.PART) + b"end"}
    assert storage.keys() == [""]
    assert volume.noted() == ("here", MACHINE)


def test_all_of_a_volume_lies_in_the_prefix_and_the_manifest_counts_it(
    storage: Storage, volume: FolderFiles, vault: Any
) -> None:
    written(volume, "notes/a.txt", b"first")
    written(volume, "large", bytes(upload.PART) + b"end")
    (volume.folder / "empty").mkdir()

    hand_over(volume, vault, MACHINE)

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
    hand_over(volume, vault, MACHINE)
    (tmp_path / "other").mkdir()
    other = FolderFiles(tmp_path / "other")

    take_in(other, vault, MACHINE)

    assert contents(other) == contents(volume)
    tool = (other.folder / "bin/tool").stat()
    assert (stat.S_IMODE(tool.st_mode), tool.st_mtime) == (0o755, MONDAY)


names = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/\\"), min_size=1, max_size=20
)


@examples(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    hand_over(volume, vault, MACHINE)
    said = manifest(storage)
    if said["state"] == "done":
        take_in(other, vault, MACHINE)
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

    hand_over(volume, vault, MACHINE)

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
    assert volume.noted() == ("here", MACHINE)


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
        hand_over(volume, vault, MACHINE)
    assert len(storage.keys()) == 1 + 10
    monkeypatch.setattr(upload, "put", put)
    hand_over(volume, vault, MACHINE)

    assert sorted(storage.keys()) == ["", *sorted(f"file-{number}" for number in range(20))]
    assert manifest(storage)["files"] == 20


def test_a_machine_that_serves_again_after_a_handover_takes_its_workspace_back(
    storage: Storage, volume: FolderFiles, vault: Any
) -> None:
    written(volume, "a", b"on both")
    hand_over(volume, vault, MACHINE)

    take_in(volume, vault, MACHINE)

    assert contents(volume) == {"a": b"on both"}
    assert storage.keys() == [""]
    assert not has_manifest(storage), "it would say that a volume that changes is in the prefix"


def test_of_two_files_of_one_name_the_newer_has_it_and_the_other_is_there(
    storage: Storage, volume: FolderFiles, vault: Any
) -> None:
    prefix = in_prefix(storage.secret("acme"))
    for name in ("older-here", "newer-here"):
        prefix.write(name, [b"prefix"])
    written(volume, "older-here", b"volume")
    os.utime(written(volume, "newer-here", b"volume"), (4e9, 4e9))

    take_in(volume, vault, MACHINE)

    there = contents(volume)
    assert (there.pop("older-here"), there.pop("newer-here")) == (b"prefix", b"volume")
    assert {name.partition(".moved-")[0]: content for name, content in there.items()} == {
        "older-here": b"volume",
        "newer-here": b"prefix",
    }
    assert storage.keys() == [""]


@pytest.mark.parametrize("key", ["folder", "file/inside", "link", "link/inside", "link/deep/"])
def test_what_comes_gives_way_to_what_it_cannot_lie_with_and_goes_through_no_link(
    key: str, storage: Storage, volume: FolderFiles, vault: Any, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    written(volume, "folder/a", b"volume")
    written(volume, "file", b"volume")
    (volume.folder / "link").symlink_to(tmp_path / "outside")
    before = contents(volume)
    body = b"" if key.endswith("/") else b"odd"
    storage.owner.put_object(Bucket=BUCKET, Key=f"tenant_acme/workspace/{key}", Body=body)

    take_in(volume, vault, MACHINE)

    after = contents(volume)
    assert before.items() <= after.items()
    new = after.keys() - before.keys()
    assert new
    assert all(".moved-" in name for name in new)
    assert body in [after[name] or b"" for name in new]
    assert list((tmp_path / "outside").iterdir()) == []
    assert storage.keys() == [""]


def test_what_no_volume_takes_stays_in_the_prefix_and_is_in_the_way_of_a_handover(
    storage: Storage, volume: FolderFiles, vault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.owner.put_object(Bucket=BUCKET, Key="tenant_acme/workspace/a", Body=b"odd")

    def refused(*_: Any) -> None:
        raise PermissionError("it may not be written")

    monkeypatch.setattr(handover, "_settle", refused)
    hand_over(volume, vault, MACHINE)

    said = manifest(storage)
    assert said["state"] == "refused"
    assert said["named"] == ["'a': lies in object storage, and could not be brought here"]
    assert storage.keys() == ["", "a"]


def test_what_a_tenant_wrote_while_its_volume_was_parked_is_there_before_the_next_machine_serves(
    storage: Storage, tmp_path: Path
) -> None:
    for vault in serving(runtimes.vault(storage.secret("acme"))):
        server = runtimes.runtime("machine", tmp_path, vault)
        volume = FolderFiles(tmp_path / "workspace")
        written(volume, "notes.md", b"v1")
        volume.note("here", "the machine before")
        prefix = in_prefix(storage.secret("acme"))
        prefix.write("notes.md", [b"months of work"])
        prefix.write("new.md", [b"new"])
        for url in serving(server):
            assert ask("GET", f"{url}/v1/files/notes.md") == (200, b"months of work")
            assert ask("GET", f"{url}/v1/files/new.md") == (200, b"new")
            (old,) = [path for path in volume.folder.iterdir() if ".moved-" in path.name]
            assert old.read_bytes() == b"v1"


def test_what_an_old_pod_writes_while_a_file_is_taken_in_is_not_lost(
    storage: Storage, volume: FolderFiles, vault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = in_prefix(storage.secret("acme"))
    prefix.write("report", [b"v1"])
    settle = handover._settle

    def meanwhile(*arguments: Any) -> None:
        prefix.write("report", [b"v2"])
        settle(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(handover, "_settle", meanwhile)
        take_in(volume, vault, MACHINE)
    assert prefix.read("report") == b"v2"
    take_in(volume, vault, MACHINE)
    assert b"v2" in contents(volume).values()
    assert storage.keys() == [""]


def test_what_was_not_whole_when_the_machine_was_switched_off_is_gone_and_none_of_the_workspace(
    storage: Storage, volume: FolderFiles, vault: Any
) -> None:
    written(volume, ".agent-platform-draft-x1", b"half")
    written(volume, "notes/.agent-platform-draft-x2", b"the tenant's")
    with pytest.raises(RefusedPathError, match="which files have that are not whole yet"):
        volume.write(".agent-platform-draft-x3", [b"content"])

    hand_over(volume, vault, MACHINE)

    assert contents(volume) == {"notes": None, "notes/.agent-platform-draft-x2": b"the tenant's"}
    assert storage.keys() == ["", "notes/.agent-platform-draft-x2"]


def test_nothing_moves_to_or_from_a_folder_that_is_no_volume(
    storage: Storage, tmp_path: Path, vault: Any
) -> None:
    in_prefix(storage.secret("acme")).write("a", [b"content"])
    (tmp_path / "no-volume").mkdir()
    folder = FolderFiles(tmp_path / "no-volume")

    for move in (take_in, hand_over):
        with pytest.raises(NotReadyError, match="is no volume"):
            move(folder, vault, MACHINE)
    assert storage.keys() == ["", "a"]


def test_what_never_left_the_volume_is_not_fetched_back(
    storage: Storage, volume: FolderFiles, vault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(volume, "a", b"content")
    hand_over(volume, vault, MACHINE)

    def fetched(*_: Any) -> None:
        raise AssertionError("it was fetched")

    monkeypatch.setattr(Place, "get", fetched)
    take_in(volume, vault, MACHINE)
    assert (contents(volume), storage.keys()) == ({"a": b"content"}, [""])


def test_a_file_that_is_gone_since_an_earlier_attempt_does_not_come_back(
    storage: Storage, volume: FolderFiles, vault: Any
) -> None:
    written(volume, "a", b"content")
    written(volume, "b", b"content")
    hand_over(volume, vault, MACHINE)
    (volume.folder / "a").unlink()

    hand_over(volume, vault, MACHINE)

    assert storage.keys() == ["", "b"]
    assert manifest(storage)["files"] == 1


def test_an_object_of_an_earlier_move_that_could_not_be_brought_here_is_in_the_way_and_stays(
    storage: Storage, volume: FolderFiles, vault: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(volume, "a", b"content")
    hand_over(volume, vault, MACHINE)
    (tmp_path / "other").mkdir()

    def refused(*_: Any) -> None:
        raise PermissionError("it may not be written")

    monkeypatch.setattr(handover, "_settle", refused)
    hand_over(FolderFiles(tmp_path / "other"), vault, MACHINE)

    assert manifest(storage)["named"] == ["'a': lies in object storage, and could not be brought here"]
    assert storage.keys() == ["", "a"]


def test_a_handover_that_fails_says_why_and_is_tried_again(
    storage: Storage, volume: FolderFiles, vault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, once = list[dict[str, Any]](), iter([True])
    walk = handover._walk

    def failing(*arguments: Any) -> Any:
        if next(once, False):
            raise OSError("the disk is broken")
        return walk(*arguments)

    monkeypatch.setattr(handover, "_walk", failing)
    monkeypatch.setattr(
        "services.agent_runtime.handover.time.sleep", lambda _: said.append(manifest(storage))
    )
    handover.leave(volume, vault, MACHINE)
    assert said[0]["failure"] == "OSError: the disk is broken"
    assert manifest(storage)["state"] == "done"


def test_a_file_that_changes_while_it_is_handed_over_is_handed_over_again(
    storage: Storage, volume: FolderFiles, vault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(volume, "file", b"1" * 2**17)
    counted, changes = handover._counted, iter([b"2" * 2**17])

    def meanwhile(*arguments: Any) -> Iterator[bytes]:
        for number, block in enumerate(counted(*arguments)):
            if number == 0 and (content := next(changes, None)):
                path.write_bytes(content)
            yield block

    monkeypatch.setattr(handover, "_counted", meanwhile)
    with pytest.raises(NotReadyError, match="were changed while they were handed over"):
        hand_over(volume, vault, MACHINE)
    hand_over(volume, vault, MACHINE)
    assert in_prefix(storage.secret("acme")).read("file") == b"2" * 2**17
    assert manifest(storage)["state"] == "done"


def test_a_long_way_is_told_while_its_first_file_is_on_it(
    storage: Storage, volume: FolderFiles, vault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "_TOLD_EVERY", 0.05)
    written(volume, "file", b"1" * 2**17)
    counted, told = handover._counted, list[dict[str, Any]]()

    def slowly(*arguments: Any) -> Iterator[bytes]:
        for block in counted(*arguments):
            yield block
            time.sleep(0.5)
            told.append(manifest(storage))

    monkeypatch.setattr(handover, "_counted", slowly)
    hand_over(volume, vault, MACHINE)
    assert [(said["state"], said["bytes"]) for said in told] == [("at work", 2**16), ("at work", 2**17)]


def test_the_file_systems_own_folder_is_none_of_the_workspace(
    storage: Storage, volume: FolderFiles, vault: Any
) -> None:
    hand_over(volume, vault, MACHINE)
    assert (manifest(storage)["state"], storage.keys()) == ("done", [""])
    with pytest.raises(RefusedPathError, match="a volume has for itself"):
        in_prefix(storage.secret("acme")).write("lost+found/a", [b"content"])

    take_in(volume, vault, MACHINE)
    written(volume, "lost+found/a", b"the tenant's")
    hand_over(volume, vault, MACHINE)

    said = manifest(storage)
    assert said["named"] == ["'lost+found/a': is in the folder that the file system has for itself"]


def test_a_very_deep_folder_is_named_as_being_in_the_way(
    storage: Storage, volume: FolderFiles, vault: Any
) -> None:
    here = Path.cwd()
    os.chdir(volume.folder)
    try:
        for _ in range(600):
            Path("d").mkdir()
            os.chdir("d")
    finally:
        os.chdir(here)

    hand_over(volume, vault, MACHINE)

    said = manifest(storage)
    assert (said["state"], said["files"]) == ("refused", 1)
    assert len(said["named"][0]) <= 300


def test_no_configuration_that_a_tenant_wrote_changes_how_storage_is_reached(
    storage: Storage, tmp_path: Path
) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text("[default\nregion=")
    script = (
        "import json, os, sys; from pathlib import Path;"
        "from tests.services.agent_runtime.test_files import in_prefix;"
        "in_prefix(json.loads(sys.argv[1])).write('a', [b'content'])"
    )
    command = [sys.executable, "-c", script, json.dumps(storage.secret("acme"))]
    subprocess.run(command, env={**os.environ, "HOME": str(tmp_path)}, cwd=ROOT, check=True)
    assert storage.keys() == ["", "a"]


def test_a_machine_that_is_moving_shows_nothing_of_its_workspace(tmp_path: Path, vault: Any) -> None:
    known = Identity(
        tenant="acme",
        tier="any",
        vault=Server(address="http://127.0.0.1:9", authority=None),
        login="auth/kubernetes/login",
        role="tenant-acme",
        secrets="tenants/acme",
        logins="database/creds/tenant-acme",
        database=None,
        leaving=True,
    )
    settings = dataclasses.replace(Settings.read({}), workspace=tmp_path)
    with pytest.raises(NotReadyError, match="acme is moving"):
        _ = TenantContext(known, vault, settings).workspace


@pytest.mark.parametrize(
    "said",
    [{"mtime": "nan", "mode": "9"}, {"mtime": "1e400", "mode": "-1"}, {"mode": "6777"}, {"mtime": "-5"}],
)
def test_odd_metadata_harms_nothing(
    said: dict[str, str], storage: Storage, volume: FolderFiles, vault: Any
) -> None:
    storage.owner.put_object(Bucket=BUCKET, Key="tenant_acme/workspace/a", Body=b"content", Metadata=said)

    take_in(volume, vault, MACHINE)

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
        take_in(volume, vault, MACHINE)
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
