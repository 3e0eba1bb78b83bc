"""How long a request to a sleeping machine takes, against the least that can boot.

On the running platform, whose machines have to boot: a tenant's machine is stopped, and asked for through the
gateway as a customer would. In turn with it, the same kernel boots with busybox's httpd and nothing else, on
as many processors and as much memory. The first goes all of KubeVirt's way, the second is QEMU alone.
What a machine says on its console meanwhile, and when, is its boot profile.
"""

import http.client
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

from kubernetes import client as kubernetes_client
from rich.console import Console

from images import built
from images.machine import ARGUMENTS
from local import bare_guest, engine, sleep, tokens
from local.demo.machine import Machine
from local.demo.visitor import Visitor
from local.errors import LocalError
from local.node_agent import qemu
from local.paths import LOGS
from local.servers import kubernetes

WAKES = 30
_TENANT = "acme"
_PATIENCE = 180.0
_PHASES = ("queued", "start", "boot", "ready")
_MARK = re.compile(r"agent-platform: (.+)|(Listening)")
_LOOK = 0.005
_KNOCK = 0.1


class Measured(TypedDict):
    """Seconds of each wake and of each boot of the bare guest.

    Of the wakes also the phases by their names, and by what the machine says on its console, when it says so,
    in seconds since the request.
    """

    wakes: list[float]
    bare: list[float]
    phases: dict[str, list[float]]
    marks: dict[str, list[float]]


def measure(console: Console) -> Measured:
    """Measure; raises LocalError if there is no platform, or if its machines do not boot."""
    image = built(qemu.IMAGE)
    if image is None or qemu.obstacle():
        raise LocalError(f"bench: {qemu.obstacle()}, so no wake was measured.")
    machine = Machine(_TENANT)
    token = tokens.mint(_TENANT, [tenant["id"] for tenant in engine.tenants(engine.LOCAL_STACK)])
    found: Measured = {"wakes": [], "bare": [], "phases": {phase: [] for phase in _PHASES}, "marks": {}}
    with tempfile.TemporaryDirectory() as folder:
        bare = bare_guest.make(image, Path(folder) / "bare")
        for turn in range(WAKES):
            _stop(machine)
            with _marks(found["marks"]):
                answer = Visitor(_TENANT, token).call("/readyz", _PATIENCE)
            if answer is None or answer.status != http.HTTPStatus.OK:
                raise LocalError(f"bench: the machine of {_TENANT} did not wake: {answer}.")
            found["wakes"].append(answer.seconds)
            for phase, seconds in _phases().items():
                found["phases"][phase].append(seconds)
            domain = _domain()
            _stop(machine)
            found["bare"].append(_boot(bare, domain))
            console.print(
                f"wake {turn + 1}: {found['wakes'][-1]:.1f} s, bare guest {found['bare'][-1]:.1f} s; "
                + ", ".join(f"{phase} {found['phases'][phase][-1]:.1f} s" for phase in _PHASES)
            )
    machine.start()
    return found


def profile(found: Measured) -> Iterator[str]:
    """Where the time of a wake goes: medians, in milliseconds since the request and since the line before."""
    phases = found["phases"]
    started = [queued + start for queued, start in zip(phases["queued"], phases["start"], strict=True)]
    moments: Mapping[str, Sequence[float]] = {
        "QEMU runs": started,
        **found["marks"],
        "the answer": found["wakes"],
    }
    before = 0.0
    for what, at in sorted(
        ((name, statistics.median(times)) for name, times in moments.items()), key=lambda mark: mark[1]
    ):
        yield f"{at * 1000:6.0f}  +{(at - before) * 1000:5.0f}  {what}"
        before = at


@contextmanager
def _marks(found: dict[str, list[float]]) -> Iterator[None]:
    """Note when each line of ours comes on the machine's console."""
    console = LOGS / "guests" / f"tenant-{_TENANT}_tenant-{_TENANT}.log"
    console.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    console.touch()
    position = console.stat().st_size
    began, over = time.monotonic(), threading.Event()

    def follow() -> None:
        with console.open("rb") as log:
            log.seek(position)
            rest = b""
            while not over.wait(_LOOK):
                *lines, rest = (rest + log.read()).split(b"\n")
                for line in lines:
                    if mark := _MARK.search(line.decode(errors="replace")):
                        found.setdefault((mark[1] or mark[2]).strip(), []).append(time.monotonic() - began)

    follower = threading.Thread(target=follow)
    follower.start()
    try:
        yield
    finally:
        over.set()
        follower.join()


def _domain() -> dict[str, Any]:
    """What the machine that runs is made of: its size is its instance type's."""
    name = f"tenant-{_TENANT}"
    objects: Any = kubernetes_client.CustomObjectsApi(kubernetes.client())
    instance: dict[str, Any] = objects.get_namespaced_custom_object(
        "kubevirt.io", "v1", name, "virtualmachineinstances", name
    )
    domain: dict[str, Any] = instance["spec"]["domain"]
    return domain


def _stop(machine: Machine) -> None:
    if machine.status() != "Stopped":
        machine.stop()
    if not machine.wait_for("Stopped", _PATIENCE):
        raise LocalError(f"bench: the machine of {_TENANT} does not stop; see `make logs`.")


def _phases() -> dict[str, float]:
    seen = {"id": _TENANT, "served_by": "machine", "status": "Running", "state": "active"}
    (known,), _ = sleep.explain([seen])
    wake = known["last_wake"] or {}
    return {phase: wake.get(phase, 0.0) for phase in _PHASES}


def _boot(guest: Path, domain: dict[str, Any]) -> float:
    """Seconds from the start of QEMU to the first byte of an answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    emulator = shutil.which(qemu.EMULATOR) or qemu.EMULATOR
    command = [
        *(emulator, *qemu.processor(domain, "tcg")),
        *("-kernel", str(guest / "vmlinuz"), "-initrd", str(guest / "initrd"), "-append", ARGUMENTS),
        *("-netdev", f"user,id=net,restrict=on,ipv6=off,{qemu.NETWORK},hostfwd=tcp:127.0.0.1:{port}-:8080"),
        *("-device", "virtio-net-pci,netdev=net,romfile=", "-serial", "null"),
    ]
    began = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    answered = threading.Event()
    try:
        while not answered.wait(_KNOCK):
            if process.poll() is not None or time.monotonic() - began > _PATIENCE:
                raise LocalError("bench: the bare guest does not answer.")
            # As the gateway does: who knocked before the guest's network was up would wait for long.
            threading.Thread(target=_knock, args=(port, answered), daemon=True).start()
        return time.monotonic() - began
    finally:
        process.kill()
        process.wait()


def _knock(port: int, answered: threading.Event) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        if connection.getresponse().status == http.HTTPStatus.OK:
            answered.set()
    except (OSError, http.client.HTTPException):
        return
    finally:
        connection.close()
