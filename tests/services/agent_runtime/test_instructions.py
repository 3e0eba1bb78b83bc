"""What a machine does of what it is told, and what it refuses."""

import json
from pathlib import PurePosixPath
from typing import Any

import pytest

from services.agent_runtime.guest.instructions import Instructions, RefusedError, parse

_DEVICE = "/dev/disk/by-id/virtio-workspace"


def _told(**changes: Any) -> Instructions:
    said = {
        "hostname": "tenant-acme",
        "fs_setup": [{"device": _DEVICE, "filesystem": "ext4", "label": "workspace", "overwrite": False}],
        "mounts": [[_DEVICE, "/workspace", "ext4", "defaults,nofail,discard", "0", "2"]],
        "write_files": [
            {"path": "/etc/agent-platform/identity.json", "permissions": "0644", "content": "{}"}
        ],
    }
    return parse("#cloud-config\n" + json.dumps({**said, **changes}))


def test_does_what_the_platform_writes() -> None:
    told = _told()

    assert told.hostname == "tenant-acme"
    assert [(volume.serial, volume.label) for volume in told.volumes] == [("workspace", "workspace")]
    assert told.files[0].path == PurePosixPath("/etc/agent-platform/identity.json")
    assert told.files[0].mode == 0o644


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runcmd": ["reboot"]}, "runcmd is not known here"),
        ({"write_files": [{"path": "/etc/passwd", "content": ""}]}, "/etc/passwd is in none of the folders"),
        ({"fs_setup": [{"device": _DEVICE, "filesystem": "ext4", "overwrite": True}]}, "on a blank disk"),
        ({"mounts": [[_DEVICE, "/usr", "ext4"]]}, "only a workspace in ext4"),
        ({"mounts": [["/dev/vdb", "/workspace", "ext4"]]}, "a disk is named by its serial"),
        ({"hostname": "x", "mounts": [[]]}, "not what the platform writes"),
    ],
)
def test_refuses_what_it_does_not_know(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        _told(**changes)


@pytest.mark.parametrize("user_data", ["", "#!/bin/sh\n", "#cloud-config\nnot json", "#cloud-config\n[]"])
def test_refuses_what_is_no_configuration(user_data: str) -> None:
    with pytest.raises(RefusedError):
        parse(user_data)
