"""What the platform tells a machine at its start: cloud-init's user data, of which it uses four keys.

This is no cloud-init: what is not among them is refused, so that nobody takes for done what was ignored.
"""

import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

_HEADER = "#cloud-config\n"
_DEVICE = "/dev/disk/by-id/virtio-"
_FOLDERS = (PurePosixPath("/etc/agent-platform"), PurePosixPath("/etc/wireguard"))


class RefusedError(Exception):
    """What is asked for and is not known here, and what follows from it."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A file to write, readable by all or by its owner."""

    path: PurePosixPath
    mode: int
    content: str


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A disk to mount, formatted first if it is blank and `label` is given."""

    serial: str
    folder: PurePosixPath
    label: str | None


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """What a machine is told."""

    hostname: str
    volumes: tuple[Volume, ...]
    files: tuple[File, ...]


def parse(user_data: str) -> Instructions:
    """Parse user data: `#cloud-config`, then JSON, which is YAML.

    Raises RefusedError for anything that is not known here.
    """
    if not user_data.startswith(_HEADER):
        raise RefusedError("user-data does not begin with #cloud-config, so nothing in it was done.")
    try:
        said = json.loads(user_data.removeprefix(_HEADER))
    except ValueError as error:
        raise RefusedError(f"user-data is no JSON ({error}), so nothing in it was done.") from None
    if not isinstance(said, dict):
        raise RefusedError("user-data is no mapping, so nothing in it was done.")
    _only(said, {"hostname", "fs_setup", "mounts", "write_files"}, "user-data")
    try:
        labels = dict(_format(entry) for entry in said.get("fs_setup", ()))
        return Instructions(
            hostname=said["hostname"],
            volumes=tuple(_volume(entry, labels) for entry in said.get("mounts", ())),
            files=tuple(_file(entry) for entry in said.get("write_files", ())),
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise RefusedError(
            f"user-data is not what the platform writes ({type(error).__name__}: {error}), so it was ignored."
        ) from None


def _format(entry: dict[str, Any]) -> tuple[str, str]:
    _only(entry, {"device", "filesystem", "label", "overwrite"}, "fs_setup")
    if entry["filesystem"] != "ext4" or entry.get("overwrite"):
        raise RefusedError(f"fs_setup of {entry['device']}: ext4 on a blank disk and nothing else is made.")
    return _serial(entry["device"]), entry["label"]


def _volume(entry: list[str], labels: dict[str, str]) -> Volume:
    device, folder, filesystem, *_ = entry
    if filesystem != "ext4" or folder != "/workspace":
        raise RefusedError(
            f"mounts: {device} at {folder} as {filesystem}: only a workspace in ext4 is mounted."
        )
    serial = _serial(device)
    return Volume(serial=serial, folder=PurePosixPath(folder), label=labels.get(serial))


def _file(entry: dict[str, Any]) -> File:
    _only(entry, {"path", "permissions", "content"}, "write_files")
    path = PurePosixPath(entry["path"])
    if path.parent not in _FOLDERS:
        raise RefusedError(f"write_files: {path} is in none of the folders that the platform writes to.")
    return File(path=path, mode=int(entry.get("permissions", "0644"), 8) & 0o777, content=entry["content"])


def _serial(device: str) -> str:
    if not device.startswith(_DEVICE):
        raise RefusedError(f"{device}: a disk is named by its serial, {_DEVICE}SERIAL.")
    return device.removeprefix(_DEVICE)


def _only(entry: dict[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(entry) - known)
    if unknown:
        raise RefusedError(f"{where}: {', '.join(unknown)} is not known here, so nothing was done.")
