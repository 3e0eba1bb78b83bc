import io
from pathlib import Path

from pycdlib.pycdlib import PyCdlib

from local.node_agent.disks import Volumes, write_iso


def test_a_volume_grows_with_what_it_holds_and_never_shrinks(tmp_path: Path) -> None:
    volumes = Volumes(tmp_path / "volumes")
    volumes.provide("pv", 2**20)
    with volumes.path("pv").open("r+b") as file:
        file.write(b"kept")
    volumes.provide("pv", 2**40)
    volumes.provide("pv", 2**20)
    found = volumes.path("pv").stat()
    assert (found.st_size, found.st_mode & 0o777) == (2**40, 0o600)
    assert found.st_blocks * 512 < 2**20, "it is sparse"
    assert volumes.path("pv").open("rb").read(4) == b"kept"
    volumes.delete("pv")
    volumes.delete("pv")
    assert not volumes.path("pv").exists()


def test_a_disk_is_found_by_its_label_and_has_long_names(tmp_path: Path) -> None:
    path = tmp_path / "told.iso"
    write_iso(path, "cidata", {"user-data": b"#cloud-config\n", "meta-data": b"{}"})
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes()[0x8001:0x8006] == b"CD001"
    assert path.read_bytes()[0x8028:0x8048].strip() == b"cidata"
    disk = PyCdlib()
    disk.open(str(path))
    for key in ("rr_path", "joliet_path"):
        content = io.BytesIO()
        disk.get_file_from_iso_fp(content, **{key: "/user-data"})
        assert content.getvalue() == b"#cloud-config\n"
    disk.close()
