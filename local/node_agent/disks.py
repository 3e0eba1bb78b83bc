"""What guests have for disks: sparse files for volumes, and small ones with what the platform tells them."""

import io
import os
from collections.abc import Mapping
from pathlib import Path

from pycdlib.pycdlib import PyCdlib


class Volumes:
    """One file per PersistentVolume, as large as it says; only what a guest has written takes up space."""

    def __init__(self, folder: Path) -> None:
        """Keep the files in `folder`."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, name: str) -> Path:
        """Return where the volume's data is."""
        return self._folder / f"{name}.img"

    def provide(self, name: str, size: int) -> None:
        """Make the volume at least `size` bytes large; what it holds stays."""
        descriptor = os.open(self.path(name), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size < size:
                os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)

    def delete(self, name: str) -> None:
        """Drop the volume with its data."""
        self.path(name).unlink(missing_ok=True)


def write_iso(path: Path, label: str, files: Mapping[str, bytes]) -> None:
    """Write an ISO 9660 disk with Joliet and Rock Ridge names, as KubeVirt has xorriso do."""
    disk = PyCdlib()
    disk.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=label)
    for number, (name, content) in enumerate(files.items()):
        disk.add_fp(io.BytesIO(content), len(content), f"/F{number}.;1", rr_name=name, joliet_path=f"/{name}")
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "w+b") as output:
        disk.write_fp(output)
    disk.close()
