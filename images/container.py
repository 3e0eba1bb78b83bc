"""Starts an image as a node would: confined as the program declares it, by runc.

The root is read-only, the user a number, no capability is held or can be gained, and system calls are
filtered by container runtimes' default profile (`RuntimeDefault`). The network is this machine's.
The configuration is the runtime specification's:
<https://github.com/opencontainers/runtime-spec/blob/main/config.md>.
"""

import contextlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PROFILE = Path("/usr/share/containers/seccomp.json")
"""Of Debian's golang-github-containers-common."""

_SPACES = ("pid", "ipc", "uts", "mount")


def obstacle() -> str:
    """Return why no container can be started on this machine, empty if it can."""
    if os.geteuid() != 0:
        return "only root starts a container of another user"
    if not shutil.which("runc"):
        return "runc is not installed (Debian's runc)"
    if not PROFILE.exists():
        return f"{PROFILE} is not there (Debian's golang-github-containers-common)"
    return ""


@contextlib.contextmanager
def started(
    image: Path,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folders: Mapping[str, Path],
    log: Path,
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `arguments` in the image in that folder of `build`; end it afterwards.

    `folders` are mounted at those paths, the first one to be written to. The process is runc's, and ends when
    the container does, with its exit status; what both say goes to `log`.
    """
    name = f"agent-platform-{uuid.uuid4().hex[:12]}"
    with tempfile.TemporaryDirectory() as bundle, log.open("ab") as output:
        configuration = _unpack(image / "oci", Path(bundle, "root"))
        described = _specification(configuration, arguments, environment, folders)
        Path(bundle, "config.json").write_text(json.dumps(described), encoding="utf-8")
        process = subprocess.Popen(
            ["runc", "run", "--bundle", bundle, name],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            subprocess.run(["runc", "delete", "--force", name], check=False, capture_output=True)
            process.wait(30)


def _specification(
    configuration: Mapping[str, Any],
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folders: Mapping[str, Path],
) -> dict[str, Any]:
    user, group = map(int, configuration["User"].split(":"))
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
    ]
    for number, (target, source) in enumerate(folders.items()):
        options = ["rbind", "ro" if number else "rw"]
        mounts.append({"destination": target, "type": "bind", "source": str(source), "options": options})
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": user, "gid": group},
            "args": list(arguments),
            "env": [*configuration["Env"], *(f"{name}={value}" for name, value in environment.items())],
            "cwd": configuration["WorkingDir"],
            "capabilities": {},
            "noNewPrivileges": True,
        },
        "root": {"path": "root", "readonly": True},
        "hostname": "container",
        "mounts": mounts,
        "linux": {"namespaces": [{"type": space} for space in _SPACES], "seccomp": _seccomp()},
    }


def _seccomp() -> dict[str, Any]:
    """Return the default profile as it is for a process without capabilities."""
    profile = json.loads(PROFILE.read_text(encoding="utf-8"))
    rules = [
        {key: rule[key] for key in ("names", "action", "args", "errnoRet") if rule.get(key)}
        for rule in profile["syscalls"]
        if not rule.get("includes", {}).get("caps")
        and "amd64" in rule.get("includes", {}).get("arches", ["amd64"])
    ]
    return {
        "defaultAction": profile["defaultAction"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    }


def _unpack(layout: Path, root: Path) -> Mapping[str, Any]:
    """Unpack an image; return its configuration."""

    def blob(described: Mapping[str, str]) -> Path:
        return layout / "blobs" / "sha256" / described["digest"].removeprefix("sha256:")

    (listed,) = json.loads((layout / "index.json").read_text())["manifests"]
    manifest = json.loads(blob(listed).read_text())
    root.mkdir()
    for layer in manifest["layers"]:
        with tarfile.open(blob(layer)) as archive:
            archive.extractall(root, filter="fully_trusted")  # noqa: S202 - our own
    configuration: Mapping[str, Any] = json.loads(blob(manifest["config"]).read_text())["config"]
    return configuration
