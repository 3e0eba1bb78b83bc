"""A tenant's machine: a read-only root file system, and the kernel that is booted directly beside it."""

import shutil
import subprocess
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from images import cpio
from images.debian import EPOCH

ARGUMENTS = "console=ttyS0 quiet panic=-1 no_timer_check random.trust_cpu=on"
"""What the kernel is told: to say little, since a serial line is slow, and not to hang when it fails.

Nor to look whether its timer ticks: on a hypervisor that is busy it may tick late, and the kernel gives up.
"""

_FILES = Path(__file__).parent / "files"
_BOOTED_WITH = ("virtio_pci", "virtio_blk", "virtio_net", "erofs", "isofs", "button", "evdev")
"""Modules without which there is no root, no network, no instructions and no power button."""
_LATER = ("wireguard", "virtio-rng")
"""Modules that a machine loads when it needs them."""


def kernel_files(kernel: Path, root: Path) -> tuple[bytes, bytes]:
    """The kernel, and the initial file system with which it finds its root.

    `kernel` is a folder with Debian's kernel unpacked, `root` one with its other packages.
    """
    modules = _with_needed(kernel, _BOOTED_WITH)
    init = (_FILES / "initrd-init").read_text().replace("@MODULES@", " ".join(path.stem for path in modules))
    initial = cpio.archive(
        [
            *(cpio.folder(name) for name in ("bin", "dev", "lib", "proc", "root", "sys")),
            cpio.character_device("dev/console", 5, 1),
            cpio.file("bin/busybox", (root / "usr/bin/busybox").read_bytes(), executable=True),
            *(cpio.file(f"lib/{path.name}", path.read_bytes()) for path in modules),
            cpio.file("init", init.encode(), executable=True),
        ]
    )
    return next((kernel / "boot").glob("vmlinuz-*")).read_bytes(), initial


def furnish(root: Path, kernel: Path) -> None:
    """Turn Debian's packages in `root` into a machine's root file system.

    It is never written to: what the platform tells a machine, and what changes as it runs, is in memory.
    """
    for name, target in (
        ("etc/agent-platform", "/run/agent-platform/etc"),
        ("etc/wireguard", "/run/wireguard"),
        ("etc/resolv.conf", "/run/resolv.conf"),
    ):
        path = root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.symlink_to(target)
    (root / "workspace").mkdir()
    (root / "etc/hostname").write_text("machine\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    _append(root / "etc/passwd", "agent:x:1000:1000:agent:/workspace:/bin/bash")
    _append(root / "etc/group", "agent:x:1000:")
    _append(root / "etc/shadow", "agent:*:::::::")
    home = root / "usr/lib/agent-platform"
    home.mkdir(parents=True, exist_ok=True)
    for name in ("init.py", "udhcpc"):
        shutil.copy(_FILES / name, home / name)
        (home / name).chmod(0o755)
    for module in _with_needed(kernel, _LATER):
        copy = root / module.relative_to(kernel)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(module, copy)
    version = next((kernel / "lib/modules").iterdir()).name
    _list_modules(root, version)


def pack(root: Path, image: Path, log: IO[bytes]) -> None:
    """Make the disk: uncompressed, since a machine that wakes would wait for what has to be decompressed."""
    subprocess.run(
        [
            "mkfs.erofs",
            "-T",
            str(EPOCH),
            "-U",
            str(uuid.uuid5(uuid.NAMESPACE_URL, "agent-machine")),
            image,
            root,
        ],
        check=True,
        stdout=log,
        stderr=log,
    )


def _with_needed(kernel: Path, names: Sequence[str]) -> list[Path]:
    """The files of modules and of what they need, each after what it needs itself."""
    folder = next((kernel / "lib/modules").iterdir())
    if not (folder / "modules.dep").exists():
        _list_modules(kernel, folder.name)
    needs = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        path, _, needed = line.partition(":")
        needs[Path(path).stem] = (path, [Path(other).stem for other in needed.split()])
    found: dict[str, Path] = {}

    def add(names: Iterable[str]) -> None:
        for name in names:
            if name not in found and name in needs:
                path, needed = needs[name]
                add(needed)
                found[name] = folder / path

    add(names)
    return list(found.values())


def _list_modules(root: Path, version: str) -> None:
    # Its warnings are of lists that only a whole kernel has.
    subprocess.run(["/sbin/depmod", "--basedir", root, version], check=True, stderr=subprocess.DEVNULL)


def _append(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line + "\n")
