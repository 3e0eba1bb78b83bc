"""The Go programs of the embedded platform, built once from the modules that `*/go.mod` pin.

What is built lands in the cache, in a folder named by the hash of all that goes into it: checkouts share it,
a changed pin makes a new folder, and each file is renamed into place once it is whole, never half there.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import yaml
from rich.console import Console

from local.errors import LocalError
from local.paths import CACHE, LOGS
from local.toolchain import golang
from local.toolchain.progress import Progress

_SOURCES = Path(__file__).parent
_HOME = CACHE / "toolchain"
_MODULES = {
    "pulumi": "github.com/pulumi/pulumi/pkg/v3",
    "etcd": "go.etcd.io/etcd/server/v3",
    "kubernetes": "k8s.io/kubernetes",
    "kubevirt": "kubevirt.io/kubevirt",
    "longhorn": "github.com/longhorn/longhorn-manager",
    "actionlint": "github.com/rhysd/actionlint",
    "prometheus": "github.com/prometheus/prometheus",
    "alertmanager": "github.com/prometheus/alertmanager",
    "collector": "go.opentelemetry.io/collector/otelcol",
}
"""What each folder here pins."""
_VERSION_IN = {
    "pulumi": ["github.com/pulumi/pulumi/sdk/v3/go/common/version.Version"],
    "etcd": [],
    "kubernetes": ["k8s.io/component-base/version.gitVersion"],
    "kubevirt": ["kubevirt.io/client-go/version.gitVersion"],
    "longhorn": [],
    "actionlint": ["github.com/rhysd/actionlint.version"],
    "prometheus": ["github.com/prometheus/common/version.Version"],
    "alertmanager": ["github.com/prometheus/common/version.Version"],
    "collector": ["main.version"],
}
"""Variables that a release sets to its version."""
_FREE_DISK = 10 * 2**30
"""Bytes that a build of everything takes, Go's own caches included."""


@dataclass(frozen=True)
class _Artefact:
    """One file of the cache: a program, or what a program or module says."""

    name: str
    module: str
    seconds: int
    """A cold build on two cores, for the estimate."""
    make: Callable[[Path, IO[bytes]], None] = field(repr=False)
    """Makes the file at a path, writing the compiler's words to a log."""
    on_demand: bool = False
    """Built when it is asked for by name: the platform comes up without it."""

    @property
    def path(self) -> Path:
        return _HOME / f"{self.module}-{_digest(self.module)}" / self.name


def tool(name: str) -> Path:
    """Return the executable `name`: what we built, or for `pulumi` the official one if it is on PATH."""
    found = official(name) if name == "pulumi" else None
    return found or _artefact(name).path


def objects(name: str) -> list[dict[str, Any]]:
    """Return Kubernetes objects: of `kubevirt` all its operator installs, of `longhorn` the definitions."""
    found: list[dict[str, Any]] = json.loads(_artefact(f"{name}.json").path.read_bytes())
    return found


def operator_manifest() -> str:
    """Return the manifest that installs KubeVirt's operator, as its release carries it."""
    return subprocess.run(
        [tool("kubevirt-manifests"), "operator"], capture_output=True, text=True, check=True
    ).stdout


def official(name: str) -> Path | None:
    """Return the official executable `name` on PATH; None without one, or for a `pulumi` older than ours."""
    found = shutil.which(name)
    if found is None or (name == "pulumi" and _older(_pulumi_version(found))):
        return None
    return Path(found)


def ensure(console: Console, *names: str) -> None:
    """Build what is missing of `names`, or of everything that is not on demand.

    Raises LocalError if that fails, with the compiler's last words and the log's path.
    """
    found = None if names else shutil.which("pulumi")
    if found and official("pulumi") is None:
        console.print(
            f"{found} is {_pulumi_version(found) or 'of unknown version'}, older than "
            f"{_pinned('pulumi')}, which the program needs: using our own build instead.",
            soft_wrap=True,
        )
    if not _missing(*names):
        return
    with _lock(console):
        missing = _missing(*names)
        if missing:
            _check_disk(missing)
            golang.ensure(console)
            _build(missing, console)


def _build(missing: list[_Artefact], console: Console) -> None:
    with Progress(console, {artefact.name: artefact.seconds for artefact in missing}, _HOME) as progress:
        for artefact in missing:
            with progress.step(artefact.name):
                _make(artefact)


def _make(artefact: _Artefact) -> None:
    """Make one artefact beside its place and move it there."""
    artefact.path.parent.mkdir(parents=True, exist_ok=True)
    for left_over in artefact.path.parent.glob(".*.draft"):
        left_over.unlink()
    draft = artefact.path.with_name(f".{artefact.name}.{os.getpid()}.draft")
    log = LOGS / f"build-{artefact.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("wb") as output:
            artefact.make(draft, output)
        draft.replace(artefact.path)
    except (subprocess.CalledProcessError, OSError) as error:
        words = "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-15:])
        raise LocalError(
            f"{artefact.name} could not be built ({error.__class__.__name__}), so the platform cannot start. "
            f"The last lines of {log}:\n{words or f'  {error}'}\n"
            "Once that is mended, run the same command again; it goes on from here."
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def _compile(module: str, package: str, *tags: str) -> Callable[[Path, IO[bytes]], None]:
    def make(path: Path, log: IO[bytes]) -> None:
        command: list[str | Path] = [
            "build",
            "-v",
            "-trimpath",
            "-mod=readonly",
            f"-ldflags={_flags(module)}",
            f"-tags={','.join(tags)}",
            "-o",
            path,
            package,
        ]
        golang.run(command, directory=_SOURCES / module, log=log)

    return make


def _alertmanager(path: Path, log: IO[bytes]) -> None:
    """Compile Alertmanager from its module's own folder, with its own pins, and without its pages.

    The module embeds pages that are in no published module: an empty one stands in for them.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "alertmanager"
        shutil.copytree(_downloaded("alertmanager", log), copy, copy_function=shutil.copyfile)
        for place in (copy, *copy.rglob("*")):
            place.chmod(0o755)
        for pages in ("elm", "mantine"):
            page = copy / "ui/app/dist" / pages / "index.html"
            page.parent.mkdir(parents=True)
            page.write_text("This Alertmanager was built without its pages; its API is below /api/v2.\n")
        command: list[str | Path] = ["build", "-v", "-trimpath", "-mod=readonly"]
        command += [f"-ldflags={_flags('alertmanager')}", "-o", path, "./cmd/alertmanager"]
        golang.run(command, directory=copy, log=log)


def _downloaded(module: str, log: IO[bytes]) -> Path:
    """Return the folder of the module that `module` pins, in Go's cache."""
    command = ["mod", "download", "-json", _MODULES[module]]
    return Path(json.loads(golang.run(command, directory=_SOURCES / module, log=log))["Dir"])


def _kubevirt_objects(path: Path, log: IO[bytes]) -> None:
    written = subprocess.run(
        [tool("kubevirt-manifests"), "cluster"], check=True, stdout=subprocess.PIPE, stderr=log
    )
    _write_objects(path, written.stdout)


def _longhorn_objects(path: Path, log: IO[bytes]) -> None:
    """Take the resource definitions out of Longhorn's module, where they are a template of its chart."""
    template = (_downloaded("longhorn", log) / "k8s/crds.yaml").read_text()
    template = template.replace('{{- include "longhorn.labels" . | nindent 4 }}', "")
    _write_objects(path, template.replace('{{ include "release_namespace" . }}', "longhorn-system").encode())


def _write_objects(path: Path, stream: bytes) -> None:
    path.write_text(
        json.dumps([document for document in yaml.load_all(stream, yaml.CSafeLoader) if document])
    )


_DISCOVERIES = ("remove_all_sd", "enable_kubernetes_sd")
"""Build tags: of Prometheus' ways to find targets, Kubernetes' alone; the clouds' would take minutes more."""

_ARTEFACTS = (
    _Artefact("pulumi", "pulumi", 240, _compile("pulumi", "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi")),
    _Artefact("etcd", "etcd", 26, _compile("etcd", "go.etcd.io/etcd/server/v3")),
    _Artefact(
        "kube-apiserver", "kubernetes", 230, _compile("kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver")
    ),
    _Artefact(
        "kube-controller-manager",
        "kubernetes",
        60,
        _compile("kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    ),
    _Artefact("virt-api", "kubevirt", 110, _compile("kubevirt", "kubevirt.io/kubevirt/cmd/virt-api")),
    _Artefact(
        "virt-controller", "kubevirt", 25, _compile("kubevirt", "kubevirt.io/kubevirt/cmd/virt-controller")
    ),
    _Artefact("kubevirt-manifests", "kubevirt", 10, _compile("kubevirt", ".")),
    _Artefact("kubevirt.json", "kubevirt", 3, _kubevirt_objects),
    _Artefact("longhorn.json", "longhorn", 3, _longhorn_objects),
    _Artefact(
        "actionlint", "actionlint", 10, _compile("actionlint", "github.com/rhysd/actionlint/cmd/actionlint")
    ),
    _Artefact(
        "prometheus",
        "prometheus",
        120,
        _compile("prometheus", "github.com/prometheus/prometheus/cmd/prometheus", *_DISCOVERIES),
        on_demand=True,
    ),
    _Artefact(
        "promtool",
        "prometheus",
        20,
        _compile("prometheus", "github.com/prometheus/prometheus/cmd/promtool", *_DISCOVERIES),
        on_demand=True,
    ),
    _Artefact("alertmanager", "alertmanager", 40, _alertmanager, on_demand=True),
    _Artefact("otelcol", "collector", 100, _compile("collector", "."), on_demand=True),
)


def _artefact(name: str) -> _Artefact:
    return next(artefact for artefact in _ARTEFACTS if artefact.name == name)


def _missing(*names: str) -> list[_Artefact]:
    """Return what has to be built of `names`, or of everything, in order."""
    return [
        artefact
        for artefact in _ARTEFACTS
        if (artefact.name in names if names else not artefact.on_demand)
        and not artefact.path.is_file()
        and not (artefact.name == "pulumi" and official("pulumi"))
    ]


@functools.cache
def _digest(module: str) -> str:
    """Hash what a module's programs are built from; not Go's version, so that they outlive its updates."""
    digest = hashlib.sha256(_flags(module).encode())
    folder = _SOURCES / module
    for path in sorted([folder / "go.mod", folder / "go.sum", *folder.glob("*.go")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _flags(module: str) -> str:
    """Return the linker's flags: small programs that know their version, as their releases do."""
    return " ".join(["-s -w", *(f"-X {variable}={_pinned(module)}" for variable in _VERSION_IN[module])])


@functools.cache
def _pinned(module: str) -> str:
    """Return the version that go.mod pins of what it builds, such as `v3.259.0`."""
    path = _SOURCES / module / "go.mod"
    found = re.search(
        rf"^\s*(?:require )?{re.escape(_MODULES[module])} (v\S+)", path.read_text(), re.MULTILINE
    )
    if found is None:
        raise LocalError(f"{path}: requires no {_MODULES[module]}, so it cannot be built; restore the file.")
    return found[1]


@functools.cache
def _pulumi_version(executable: str) -> str:
    """Return what an executable says its version is; nothing if it does not even run."""
    try:
        return subprocess.run(
            [executable, "version"], capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _older(version: str) -> bool:
    return _numbers(version) < _numbers(_pinned("pulumi"))


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    return tuple(map(int, found.groups())) if found else ()


def _check_disk(missing: list[_Artefact]) -> None:
    """LocalError if a disk that Go writes to is too full for what is missing."""
    share = sum(artefact.seconds for artefact in missing) / sum(artefact.seconds for artefact in _ARTEFACTS)
    needed = share * _FREE_DISK
    for folder in (_HOME, *golang.caches()):
        place = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(place).free
        if free < needed:
            raise LocalError(
                f"{place}: {free / 2**30:.1f} GiB are free, and building the tool chain takes up to "
                f"{needed / 2**30:.1f} GiB, so nothing was built; make room, or move the cache with "
                "AGENT_PLATFORM_CACHE (ours) and GOCACHE, GOMODCACHE (Go's)."
            )


@contextlib.contextmanager
def _lock(console: Console) -> Iterator[None]:
    """Let one process build at a time; a second one waits, then finds the work done."""
    _HOME.mkdir(parents=True, exist_ok=True)
    with (_HOME / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print("Another process is building the tool chain: waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
