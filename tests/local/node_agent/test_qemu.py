import base64
import http.server
import os
import shutil
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from images import build
from local import bare_guest
from local.errors import LocalError
from local.node_agent import qemu
from local.node_agent.containers import Containers
from local.node_agent.disks import Volumes
from local.node_agent.guests import Guest, SomeRealGuests
from local.node_agent.kube import Object
from local.node_agent.qemu import Qemu
from tests.local.node_agent.objects import a_machine

ADDRESS = "127.64.77.1"
UID = "uid-vm"
IMAGE = "registry.example/agent-platform/agent-machine@sha256:0"
FAKE = """#!{python}
import json, os, sys
folder = os.path.dirname(next(a for a in sys.argv if a.startswith("pipe,")).partition("path=")[2])
out = open(folder + "/monitor.out", "a", buffering=1)
out.write('{{"QMP": {{}}}}\\n')
pipe = os.open(folder + "/monitor.in", os.O_RDWR)
while True:
    for line in os.read(pipe, 4096).decode().splitlines():
        command = json.loads(line)["execute"]
        out.write('{{"return": {{}}}}\\n')
        if command == "system_powerdown" and {obeys}:
            out.write('{{"event": "SHUTDOWN", "data": {{"guest": true, "reason": "guest-shutdown"}}}}\\n')
            sys.exit()
"""


class Cluster:
    """The two objects that a guest's start reads."""

    def __init__(self, told: str) -> None:
        self.told = told

    def get(self, path: str) -> Object:
        if path.endswith("/secrets/cloud-init"):
            return {"data": {"userdata": base64.b64encode(self.told.encode()).decode()}}
        assert path.endswith("/persistentvolumeclaims/work")
        return {"spec": {"volumeName": "pv"}, "status": {"capacity": {"storage": "8Mi"}}}


@pytest.fixture
def hypervisors(tmp_path: Path) -> Iterator[Callable[..., Qemu]]:
    made = []

    def make(told: str = "") -> Qemu:
        containers = Containers(tmp_path / "guests", tmp_path / "logs", lambda _: None)
        made.append(containers)
        volumes = Volumes(tmp_path / "volumes")
        cluster: Any = Cluster(told)
        return Qemu(cluster, "", containers, volumes, tmp_path / "consoles", tmp_path / "accelerator.json")

    yield make
    for containers in made:
        for uid in containers.known():
            containers.remove(uid)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """An emulator that only keeps house: it answers its monitor, and obeys the power button or not."""

    def install(obeys: bool) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        script = folder / qemu.EMULATOR
        script.write_text(FAKE.format(python=sys.executable, obeys=obeys))
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        monkeypatch.setattr(qemu, "built", lambda _: tmp_path)
        monkeypatch.setattr("local.node_agent.accelerator._DEVICE", tmp_path / "no-kvm")

    return install


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which(qemu.EMULATOR) is None:
        pytest.skip(f"no guest can be booted here: {qemu.obstacle()}")
    try:
        image = build(qemu.IMAGE, Console(stderr=True))
    except LocalError as error:
        pytest.skip(str(error))
    folder = bare_guest.make(image, tmp_path / "bare")
    monkeypatch.setattr(qemu, "built", lambda _: folder)
    monkeypatch.setattr("local.node_agent.accelerator._DEVICE", tmp_path / "no-kvm")


def machine(arguments: str = "", **spec: Any) -> Object:
    kernel = {
        "container": {"image": IMAGE, "kernelPath": "/boot/vmlinuz", "initrdPath": "/boot/initrd"},
        "kernelArgs": f"console=ttyS0 quiet panic=-1 no_timer_check {arguments}",
    }
    found = a_machine()
    found["spec"] |= {
        "domain": {
            "cpu": {"sockets": 1, "cores": 1, "threads": 1},
            "memory": {"guest": "256Mi"},
            "firmware": {"kernelBoot": kernel},
            "devices": {
                "disks": [
                    {"name": "work", "serial": "workspace", "disk": {"bus": "virtio"}},
                    {"name": "told", "disk": {"bus": "virtio"}},
                ],
                "interfaces": [{"name": "default", "masquerade": {}, "ports": [{"port": 8080}]}],
                "rng": {},
            },
        },
        "volumes": [
            {"name": "work", "persistentVolumeClaim": {"claimName": "work"}},
            {"name": "told", "cloudInitNoCloud": {"secretRef": {"name": "cloud-init"}}},
        ],
        **spec,
    }
    return found


LAUNCHER: Object = {"metadata": {"name": "launcher"}, "status": {"podIP": ADDRESS}}


def until(condition: Callable[[], Any], seconds: float = 180) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def state(guests: Qemu, of: Object) -> str | None:
    guest = guests.find(of)
    return guest.state if guest else None


def ask(path: str) -> str | None:
    try:
        with urllib.request.urlopen(f"http://{ADDRESS}:8080/{path}", timeout=2) as answer:
            content: str = answer.read().decode()
            return content
    except OSError:
        return None


def shut_down(guests: Qemu, of: Object) -> None:
    def is_down() -> bool:
        guests.shut_down(of)
        return state(guests, of) not in ("starting", "running")

    until(is_down)


@pytest.mark.usefixtures("bare")
def test_a_guest_boots_keeps_its_volume_and_reaches_what_it_is_told_of(
    hypervisors: Callable[..., Qemu], tmp_path: Path
) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"told\n")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
    named, unnamed = (server.server_port for server in servers)
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    of = machine(f'volume=1 "fetch={qemu.HOST}:{named} {qemu.HOST}:{unnamed} 10.0.2.1:{unnamed}"')
    guests = hypervisors(f"#cloud-config\nvault: http://127.0.0.1:{named}")
    assert guests.find(of) is None
    guests.start(of, LAUNCHER)
    until(lambda: ask("readyz"))
    assert (ask("fetched") or "").count("told\n") == 1, "one of three addresses is open"
    assert ask("before") == "\0" * 6

    another = hypervisors()
    until(lambda: state(another, of) == "running")
    another.start(of, LAUNCHER)  # does nothing: it runs
    shut_down(another, of)
    assert state(another, of) == "shutdown"
    another.forget(UID)
    assert another.find(of) is None

    guests.start(of, LAUNCHER)
    until(lambda: ask("readyz"))
    assert ask("before") == "filled"
    assert "agent" not in (tmp_path / "consoles" / "ns_vm.log").read_text()
    for server in servers:
        server.shutdown()


@pytest.mark.usefixtures("bare")
def test_a_panic_is_a_crash(hypervisors: Callable[..., Qemu], tmp_path: Path) -> None:
    guests, of = hypervisors(), machine("crash=1")
    guests.start(of, LAUNCHER)
    until(lambda: state(guests, of) == "crashed")
    assert "Kernel panic" in (tmp_path / "consoles" / "ns_vm.log").read_text()


def test_a_guest_that_ignores_the_power_button_is_killed_in_time(
    hypervisors: Callable[..., Qemu], fake: Callable[[bool], None]
) -> None:
    fake(False)
    guests, of = hypervisors(), machine(terminationGracePeriodSeconds=1)
    guests.start(of, LAUNCHER)
    until(lambda: state(guests, of) == "running")
    shut_down(guests, of)
    assert state(guests, of) == "crashed"


def test_a_guest_is_running_once_its_emulator_answers_and_is_found_by_the_next_agent(
    hypervisors: Callable[..., Qemu], fake: Callable[[bool], None]
) -> None:
    fake(True)
    of = machine()
    hypervisors().start(of, LAUNCHER)
    guests = hypervisors()
    until(lambda: state(guests, of) == "running")
    assert guests.known() == {UID}
    shut_down(guests, of)
    assert state(hypervisors(), of) == "shutdown"
    guests.forget(UID)
    assert guests.known() == set()


def test_machines_without_an_image_of_ours_are_reported(
    hypervisors: Callable[..., Qemu], fake: Callable[[bool], None]
) -> None:
    fake(True)
    real = hypervisors()
    guests, other, ours = SomeRealGuests(real, qemu.is_ours), machine(), machine()
    ours["spec"]["volumes"].append({"name": "system", "containerDisk": {"image": IMAGE}})
    guests.start(other, LAUNCHER)
    assert guests.find(other) == Guest(state="running")
    assert not real.known()
    assert guests.find({**ours, "status": {"phase": "Running"}}) is None, (
        "a guest that is gone is not reported"
    )


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert qemu.EMULATOR in qemu.obstacle()
    monkeypatch.setattr(shutil, "which", lambda _: "/bin/true")
    monkeypatch.setattr(qemu, "built", lambda _: None)
    assert "make images" in qemu.obstacle()
