"""The walls around a container: namespaces of its own, an account of nobody's, only the files it is given.

A container has no capability and can gain none. It sees its own processes, the system's programs and
libraries, this interpreter, the code of `services` and its volumes; all of it read-only, but for the volumes
that are meant to be written. The network is this machine's: pods have their addresses on its loopback device.
"""

import functools
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from local.paths import ROOT

_SCRIPT = Path(__file__).with_name("isolate.sh")
_SPACES = ("--mount", "--pid", "--ipc", "--uts", "--kill-child")
_NO_RIGHTS = ("setpriv", "--inh-caps=-all", "--no-new-privs")
CODE = "/opt/agent-platform"
"""The folder in which a container finds our code and its packages; no volume of a Pod is mounted over it."""
PYTHON = f"{CODE}/venv/bin/python"
ENVOY = f"{CODE}/venv/{Path(sysconfig.get_path('purelib')).relative_to(sys.prefix)}/envoy/_bin/envoy"
_FIRST_ACCOUNT = 1 << 30
"""Beyond the ids that a system or its users' own containers are given."""

_SYSTEM = [
    Path(parent, name)
    for parent in ("/", "/usr", "/usr/local")
    for name in ("bin", "lib", "lib64", "sbin", "share")
]
_SETTINGS = (
    "ca-certificates.conf",
    "hosts",
    "ld.so.cache",
    "localtime",
    "nsswitch.conf",
    "resolv.conf",
    "ssl/certs",
)
_DEVICES = ("full", "null", "random", "urandom", "zero")


class Mount(NamedTuple):
    """A file or folder of this machine, and where the container finds it."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True, kw_only=True)
class Isolation:
    """The walls of one container."""

    address: str
    """Of its Pod; no two have the same one, so their accounts differ as well."""
    hostname: str
    mounts: Sequence[Mount] = ()

    def command(self, root: Path, arguments: Sequence[str]) -> list[str]:
        """Return the command that runs `arguments` within the walls; `root` is an empty folder."""
        if os.geteuid() == 0:
            account = _FIRST_ACCOUNT + int(IPv4Address(self.address)) % (1 << 22)
            enter: tuple[str, ...] = ("unshare", *_SPACES)
            drop: tuple[str, ...] = (
                *_NO_RIGHTS,
                "--bounding-set=-all",
                f"--reuid={account}",
                f"--regid={account}",
                "--clear-groups",
            )
        else:
            # The second namespace is one in which the container owns nothing that the first one rules.
            enter = ("unshare", "--map-root-user", *_SPACES)
            drop = ("unshare", "--map-user=65532", "--map-group=65532", *_NO_RIGHTS)
        mounts = [
            part
            for mount in (*_everybodys(), *self.mounts)
            for part in ("rw" if mount.writable else "ro", str(mount.source), mount.target)
        ]
        place = [str(root), CODE, self.hostname]
        return [*enter, "sh", str(_SCRIPT), *place, *mounts, "--", *drop, "--", *arguments]


@functools.cache
def obstacle() -> str:
    """Return why no container can be walled off on this machine, empty if it can."""
    with tempfile.TemporaryDirectory() as root:
        command = Isolation(address="127.0.0.1", hostname="probe").command(
            Path(root), [PYTHON, "-c", "import services"]
        )
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        except OSError as error:
            return str(error)
    said = done.stderr.strip().splitlines()
    return (said or [f"exit status {done.returncode}"])[-1] if done.returncode else ""


def _everybodys() -> Iterator[Mount]:
    """Yield what every container sees: the system, this interpreter and its packages, and our code."""
    yield Mount(ROOT / "services", f"{CODE}/services")
    yield Mount(Path(sys.prefix).resolve(), f"{CODE}/venv")
    files = [*_SYSTEM, *(Path("/etc", name) for name in _SETTINGS), Path(sys.base_prefix)]
    for path in files:
        if path.exists() and str(path) not in ("/usr", "/usr/local"):
            yield Mount(path.resolve(), str(path))
    for name in _DEVICES:
        yield Mount(Path("/dev", name), f"/dev/{name}", writable=True)
