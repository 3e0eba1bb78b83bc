"""Images as OCI layouts on disk: the same files make the same digest.

<https://github.com/opencontainers/image-spec/blob/main/image-layout.md>
"""

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

from images.debian import EPOCH

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIGURATION = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_BLOCK = 2**20


class Layout:
    """One image in a folder: blobs named by their digests, and the index that names the image."""

    def __init__(self, folder: Path) -> None:
        """Begin an image in `folder`, which there is none of yet."""
        self._blobs = folder / "blobs" / "sha256"
        self._folder = folder
        self._layers: list[dict[str, Any]] = []
        self._contents: list[str] = []
        self._blobs.mkdir(parents=True)

    def add(self, files: Mapping[str, Path]) -> None:
        """Add a layer: what is at each path of the image, a file or a folder with all that is in it."""
        draft = self._folder / "layer"
        with draft.open("wb") as file:
            packed = _Hashed(file)
            with gzip.GzipFile(
                filename="", mode="wb", fileobj=packed, compresslevel=6, mtime=0
            ) as compressed:
                content = _Hashed(cast("IO[bytes]", compressed))
                _archive(files, content)
        self._contents.append(content.digest)
        self._layers.append(self._keep(draft, packed, _LAYER))

    def finish(self, configuration: Mapping[str, Any]) -> str:
        """Write configuration, manifest and index.

        Returns:
            The image's digest.
        """
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": configuration,
            "rootfs": {"type": "layers", "diff_ids": self._contents},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._write(config, _CONFIGURATION),
            "layers": self._layers,
        }
        described = self._write(manifest, _MANIFEST)
        index = {"schemaVersion": 2, "manifests": [described]}
        (self._folder / "index.json").write_bytes(_json(index))
        (self._folder / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
        return cast("str", described["digest"])

    def _write(self, value: Mapping[str, Any], kind: str) -> dict[str, Any]:
        draft = self._folder / "blob"
        with draft.open("wb") as file:
            hashed = _Hashed(file)
            hashed.write(_json(value))
        return self._keep(draft, hashed, kind)

    def _keep(self, draft: Path, hashed: "_Hashed", kind: str) -> dict[str, Any]:
        draft.replace(self._blobs / hashed.digest.removeprefix("sha256:"))
        return {"mediaType": kind, "digest": hashed.digest, "size": hashed.size}


class _Hashed(io.RawIOBase):
    """Writes on, and knows the digest and the size of all that was written."""

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._hash.update(data)
        self.size += len(data)
        self._target.write(data)
        return len(data)


def _archive(files: Mapping[str, Path], target: "_Hashed") -> None:
    """Write a tar archive in the order of the names, with the image's own time."""
    with tarfile.open(
        fileobj=cast("IO[bytes]", target), mode="w|", format=tarfile.PAX_FORMAT, bufsize=_BLOCK
    ) as tar:
        for parent in sorted({str(parent) for name in files for parent in Path(name).parents} - {".", "/"}):
            if parent not in files:
                entry = tarfile.TarInfo(parent.lstrip("/"))
                entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, EPOCH
                tar.addfile(entry)
        for name, source in sorted(files.items()):
            for path in _walk(source):
                _add(
                    tar,
                    path,
                    name.strip("/") + "/" + str(path.relative_to(source)) if path != source else name,
                )


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    entry = tar.gettarinfo(path, arcname=name.strip("/") or ".")
    entry.mtime, entry.uname, entry.gname = EPOCH, "", ""
    if entry.islnk():
        # Which of a file's names comes first is not the same everywhere: each has the content.
        entry.type, entry.linkname, entry.size = tarfile.REGTYPE, "", path.stat().st_size
    if entry.isreg():
        with path.open("rb") as content:
            tar.addfile(entry, content)
    else:
        tar.addfile(entry)


def _walk(source: Path) -> Sequence[Path]:
    if source.is_symlink() or not source.is_dir():
        return [source]
    found = [source]
    for folder, folders, names in os.walk(source):
        found += [Path(folder) / name for name in (*folders, *names)]
    return sorted(found)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
