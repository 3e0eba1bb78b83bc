"""The same files make the same image, and a lock's parts are what an image needs."""

import json
import os
import tarfile
from pathlib import Path

import pytest
from rich.console import Console

from images import cpio, oci, wheels
from images.build import build
from local.errors import LocalError

_LOCK = """\
# a comment
anyio==4.16.0 \\
    --hash=sha256:aa
    # via mcp
mcp==2.1.1 \\
    --hash=sha256:bb
    # via
    #   -r requirements.txt
    #   strands-agents
pulumi==3.259.0 \\
    --hash=sha256:cc
    # via -r requirements.txt
strands-agents==1.62.0 \\
    --hash=sha256:dd
    # via -r requirements.txt
"""


def test_the_same_files_make_the_same_digest(tmp_path: Path) -> None:
    digests: list[str] = []
    for attempt in ("first", "second"):
        root = tmp_path / attempt / "root"
        (root / "etc").mkdir(parents=True)
        # Written in another order, and at another time.
        for name in sorted(("b", "a", "c"), reverse=attempt == "second"):
            (root / "etc" / name).write_text(name)
            os.utime(root / "etc" / name, (len(digests), len(digests)))
        (root / "etc/link").symlink_to("a")
        layout = oci.Layout(tmp_path / attempt / "oci")
        layout.add({".": root})
        digests.append(layout.finish({"User": "1"}))

    assert digests[0] == digests[1]


def test_a_layer_has_its_files_and_the_folders_they_are_in(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(b"disk")
    layout = oci.Layout(tmp_path / "oci")
    layout.add({"disk/disk.img": tmp_path / "disk.img"})
    layout.finish({})

    index = json.loads((tmp_path / "oci/index.json").read_text())
    blobs = tmp_path / "oci/blobs/sha256"
    manifest = json.loads((blobs / index["manifests"][0]["digest"].removeprefix("sha256:")).read_text())
    with tarfile.open(blobs / manifest["layers"][0]["digest"].removeprefix("sha256:")) as layer:
        assert layer.getnames() == ["disk", "disk/disk.img"]


def test_an_image_has_what_its_roots_need_and_no_more() -> None:
    found = wheels.needed(_LOCK, ["strands-agents"])

    assert [line.split("==")[0] for line in found.splitlines() if "==" in line] == [
        "anyio",
        "mcp",
        "strands-agents",
    ]
    assert found.count("--hash") == 3


def test_what_the_lock_lacks_is_named() -> None:
    with pytest.raises(LocalError, match=r"has no nothing, which an image needs.*make lock"):
        wheels.needed(_LOCK, ["nothing"])


def test_an_initial_file_system_is_what_the_kernel_reads() -> None:
    entries = [cpio.folder("bin"), cpio.file("bin/a", b"abc", executable=True)]
    archive = cpio.archive(entries)

    assert archive == cpio.archive(entries)
    assert archive.startswith(b"070701")
    assert archive.count(b"070701") == 3
    assert len(archive) % 4 == 0


def test_an_unknown_image_is_told() -> None:
    with pytest.raises(LocalError, match=r"toaster: there is no such image.*agent-machine"):
        build("toaster", Console())
