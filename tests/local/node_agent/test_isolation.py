"""The reach of an attacker's code in a container: each test tries one way out of a real one."""

import base64
import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.node_agent import isolation
from local.node_agent.containers import Command, Containers
from local.node_agent.kube import Api, Object
from local.node_agent.sandbox import Sandbox
from local.paths import ROOT
from tests.local.node_agent.objects import a_container, a_pod

SECRET = "only the other pod's"


class Secrets(Api):
    """An API server that has one secret for each pod."""

    def __init__(self) -> None:
        pass

    def get(self, path: str) -> Object:
        text = SECRET if path.endswith("/victim") else "own"
        return {"data": {"token": base64.b64encode(text.encode()).decode()}}


class Machine:
    """This machine with a data folder, in which two pods have their files."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.ended: queue.Queue[str] = queue.Queue()
        self.containers = Containers(data / "pods", data / "logs", self.ended.put)
        self.prepare("victim")

    def folder(self, pod: str, volume: str) -> Path:
        return self.containers.folder(pod) / "volumes" / volume

    def prepare(self, pod: str, *arguments: str, **environment: str) -> Command:
        container = a_container(
            command=list(arguments) or ["true"],
            env=[{"name": name, "value": value} for name, value in environment.items()],
            volumeMounts=[
                {"name": "token", "mountPath": "/var/run/secrets/token", "readOnly": True},
                {"name": "scratch", "mountPath": "/tmp"},
            ],
        )
        volumes = [{"name": "token", "secret": {"secretName": pod}}, {"name": "scratch", "emptyDir": {}}]
        address = {"attacker": "127.64.0.1", "victim": "127.64.0.2"}[pod]
        addresses = {"podIP": address, "hostIP": "127.16.0.1"}
        made = Sandbox(
            Secrets(),
            a_pod(volumes=volumes),
            self.containers.folder(pod),
            "https://127.0.0.1:6443",
            addresses,
        )
        made.write_volumes()
        return made.command(container)

    def start(self, pod: str, *arguments: str, **environment: str) -> None:
        self.containers.start(pod, "main", 0, self.prepare(pod, *arguments, **environment), label=pod)

    def run(self, pod: str, *arguments: str) -> str:
        """Run to the end; return what it said."""
        self.start(pod, *arguments)
        while self.ended.get(timeout=30) != pod:
            pass
        said = (self.data / "logs" / f"{pod}_{pod}" / "main" / "0.log").read_text()
        return said.partition("\n")[2]  # the first line is the agent's own

    def attack(self, python: str, *arguments: str) -> object:
        """Run a few lines as the attacker, which leave their answer in `found`."""
        program = f"import json, os, sys\n{python}\nprint(json.dumps(found))"
        said = self.run("attacker", isolation.PYTHON, "-c", program, *arguments)
        return json.loads(said.splitlines()[-1])


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    umask = os.umask(0o077)  # the node agent's
    made = Machine(tmp_path)
    yield made
    os.umask(umask)
    for pod in made.containers.known():
        made.containers.remove(pod)


def test_it_is_nobody_with_no_right_that_it_could_regain(machine: Machine) -> None:
    status = machine.run("attacker", "cat", "/proc/self/status")
    said = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert "0" not in said["Uid"].split() + said["Gid"].split()
    assert {said[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert said["NoNewPrivs"] == "1"


def test_a_checkout_below_tmp_is_in_sight_behind_the_pods_own_tmp(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = tmp_path / "services"
    services.mkdir()
    (services / "__init__.py").write_text("found = 'in sight'")
    services.chmod(0o755)
    (services / "__init__.py").chmod(0o644)
    monkeypatch.setattr(isolation, "ROOT", tmp_path)
    assert machine.attack("from services import found") == "in sight"


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's pods are that user, in spaces of their own")
def test_no_two_pods_are_the_same_account(machine: Machine) -> None:
    assert machine.run("attacker", "id", "-u") != machine.run("victim", "id", "-u")


def test_it_reads_its_own_files_and_those_of_nobody_else(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "pulumi-state").write_text(SECRET)
    wanted = [
        "/var/run/secrets/token/token",
        *map(str, (machine.folder("victim", "token") / "token", tmp_path / "pulumi-state")),
        *map(str, (ROOT / ".git", ROOT / ".local", ROOT / "tenants.yaml", Path.home())),
        *("/etc/passwd", "/etc/shadow", "/home", "/mnt", "/run", "/sys", "/var/log"),
    ]
    found = machine.attack(
        "found = [path for path in sys.argv[1:] if os.path.isfile(path) or os.path.isdir(path) and "
        "[name for name in os.listdir(path) if name != '.pyenv']]",
        *wanted,
    )
    assert found == ["/var/run/secrets/token/token"]


def test_it_sees_and_signals_no_process_but_its_own(machine: Machine) -> None:
    machine.start("victim", "sleep", "60", PASSWORD=SECRET)
    with subprocess.Popen(["sleep", "60"], env={"PASSWORD": SECRET, "PATH": os.defpath}) as bystander:
        found = machine.attack(
            """
found = []
for number in map(int, sys.argv[1:]):
    try:
        os.kill(number, 0)
    except OSError:
        continue
    found.append(number)
found += [name for name in os.listdir("/proc") if name.isdigit() and int(name) not in (1, os.getpid())]
""",
            str(bystander.pid),
            str(os.getpid()),
        )
        bystander.kill()
    assert found == []
    assert machine.containers.last("victim", "main").exit_code is None  # type: ignore[union-attr]


def test_it_writes_nowhere_but_into_its_own_volume(machine: Machine) -> None:
    places = [
        "/",
        "/etc",
        "/dev",
        "/var/run/secrets/token",
        "/tmp",
        str(ROOT),
        f"{ROOT}/services",
    ]
    places += [sys.prefix, sys.base_prefix, "/usr/bin", "/proc/sys/kernel"]
    found = machine.attack(
        """
found = []
for folder in sys.argv[1:]:
    try:
        open(folder + "/attack", "w").close()
        os.remove(folder + "/attack")
    except OSError:
        continue
    found.append(folder)
""",
        *places,
    )
    assert found == ["/tmp"]


@pytest.mark.parametrize(
    "escape",
    [
        "umount /var/run/secrets/token",
        "mount -o remount,rw /",
        "unshare --user --map-root-user --mount mount -o remount,bind,rw /",
        "unshare --user --map-root-user --mount umount /proc",
        "mount -t tmpfs tmpfs /tmp",
        "cat /proc/1/environ",
        "ls /proc/1/root/",
        "cat /proc/sys/kernel/core_pattern >/proc/sys/kernel/core_pattern",
        "mknod /tmp/disk b 8 0",
        "chroot /tmp true",
    ],
)
def test_it_does_not_break_out(machine: Machine, escape: str) -> None:
    said = machine.run(
        "attacker", "sh", "-c", f"export PATH=$PATH:/usr/sbin:/sbin; ({escape}) || echo refused"
    )
    assert said.splitlines()[-1] == "refused"
    assert "not found" not in said


def test_nothing_of_it_outlives_it(machine: Machine) -> None:
    said = machine.run("attacker", "sh", "-c", "setsid sleep 61.25 & echo started")
    assert said == "started\n"
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert b"sleep\x0061.25\x00" not in running


def test_it_ends_on_a_signal_with_the_code_that_tells_which(machine: Machine) -> None:
    started = machine.folder("victim", "scratch") / "started"
    os.mkfifo(started)
    started.chmod(0o666)
    machine.start("victim", "sh", "-c", "echo >/tmp/started; exec sleep 60")
    started.read_text()
    machine.containers.signal("victim", "main", signal.SIGTERM)
    assert machine.ended.get(timeout=30) == "victim"
    assert machine.containers.last("victim", "main").exit_code == 128 + signal.SIGTERM  # type: ignore[union-attr]


def test_a_machine_that_gives_no_namespaces_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unshare = tmp_path / "unshare"
    unshare.write_text("#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2\nexit 1\n")
    unshare.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.defpath}")
    isolation.obstacle.cache_clear()
    assert isolation.obstacle() == "unshare: unshare failed: Operation not permitted"
    isolation.obstacle.cache_clear()
