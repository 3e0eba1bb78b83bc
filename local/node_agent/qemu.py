"""Guests in QEMU, with the disks, the instructions and the kernel that KubeVirt would give them.

QEMU is a process like a container's, so guests outlive the agent. It is asked through a named pipe and writes
its events to a file, both in the guest's folder: how a guest ended is on disk, whoever was there to see it.
"""

import base64
import contextlib
import json
import logging
import os
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from images import built
from local.node_agent import machines
from local.node_agent.accelerator import Acceleration, Accelerator
from local.node_agent.containers import Command, Containers
from local.node_agent.disks import Volumes, write_iso
from local.node_agent.guests import Guest
from local.node_agent.kube import Api, Object
from local.node_agent.quantities import amount
from local.node_agent.sandbox import ConfigurationError, Sandbox

log = logging.getLogger(__name__)

EMULATOR = "qemu-system-x86_64"
IMAGE = "agent-machine"
"""The image of ours that guests boot; machines with any other are not for us."""

HOST = "10.0.2.100"
"""Where a guest finds those services of this machine's loopback that its instructions name."""

NETWORK = "net=10.0.2.0/24,host=10.0.2.1,dns=10.0.2.3,dhcpstart=10.0.2.2"
"""As KubeVirt's masquerade has it: the guest is 10.0.2.2."""

_LOOPBACK = re.compile(rb"\b127\.0\.0\.1:(\d{1,5})\b")
_RELAY = Path(__file__).with_name("relay.py")
CONTAINER = "qemu"
"""The name of a guest's process among its Pod's."""
_CONSOLE_LIMIT = 16 * 2**20
_GRACE = 30.0
"""KubeVirt's own default, in seconds."""


def obstacle() -> str:
    """Return why no guest can be booted on this machine, empty if they can."""
    if shutil.which(EMULATOR) is None:
        return f"{EMULATOR} is not on PATH (Debian has it in qemu-system-x86)"
    if built(IMAGE) is None:
        return f"the image {IMAGE} is not built (`make images` builds it)"
    return ""


def is_ours(machine: Object) -> bool:
    """Return whether the system disk of `machine` is an image of ours."""
    images = [
        volume.get("containerDisk", {}).get("image", "") for volume in machine["spec"].get("volumes", ())
    ]
    return any(f"/agent-platform/{IMAGE}@" in image for image in images)


def press_power_button(guests: Containers, uid: str) -> bool:
    """Ask a guest to shut down; return whether it is still up."""
    attempt = guests.last(uid, CONTAINER)
    if attempt is None or attempt.exit_code is not None:
        return False
    _say(guests, uid, "system_powerdown")
    return True


class Qemu:
    """The guests of machines whose image is ours, one folder each."""

    def __init__(
        self, api: Api, server: str, containers: Containers, volumes: Volumes, console: Path, record: Path
    ) -> None:
        """Start nothing; `console` gets a log per machine, `record` what is known of this machine's KVM."""
        self._api = api
        self._server = server
        self._containers = containers
        self._volumes = volumes
        self._console = console
        self._record = record
        self._accelerators: dict[Path, Accelerator] = {}
        self._heard: set[str] = set()

    def find(self, machine: Object) -> Guest | None:
        """Return the guest by its process, and if that has ended, by the event it ended with."""
        uid = machine["metadata"]["uid"]
        attempt = self._containers.last(uid, CONTAINER)
        if attempt is None:
            return None
        if attempt.exit_code is None:
            return Guest(state="running" if self._hears(uid) else "starting")
        orderly = any(
            event.get("event") == "SHUTDOWN" and event["data"].get("reason") == "guest-shutdown"
            for event in self._events(uid)
        )
        return Guest(state="shutdown" if orderly else "crashed")

    def start(self, machine: Object, launcher: Object) -> None:
        """Boot the guest, unless it is not known yet whether KVM works."""
        uid = machine["metadata"]["uid"]
        if self._containers.last(uid, CONTAINER) is not None:
            return
        image, emulator = built(IMAGE), shutil.which(EMULATOR)
        if image is None or emulator is None:
            raise ConfigurationError(obstacle())
        accelerator = self._accelerators.setdefault(
            image, Accelerator(Path(emulator), image / "vmlinuz", self._record)
        )
        acceleration = accelerator.answer()
        if acceleration is None:
            return
        folder = self._containers.folder(uid)
        folder.mkdir(exist_ok=True, mode=0o700)
        guest = _Preparation(self._api, machine, launcher, folder, image, self._volumes)
        console = self._console / f"{machine['metadata']['namespace']}_{machine['metadata']['name']}.log"
        arguments = [emulator, *guest.arguments(self._server, acceleration), *_console(console)]
        arguments += _monitor(folder)
        command = Command(arguments=arguments, environment={"PATH": os.defpath, "TMPDIR": str(folder)})
        label = f"{machine['metadata']['namespace']}_{machine['metadata']['name']}"
        self._containers.start(uid, CONTAINER, 0, command, label=label)

    def shut_down(self, machine: Object) -> None:
        """Press the power button, each time anew: a guest that is still booting would miss it."""
        uid = machine["metadata"]["uid"]
        since = self._containers.folder(uid) / "stopping"
        if not since.parent.exists():
            return
        if not since.exists():
            since.touch()
        grace = machine["spec"].get("terminationGracePeriodSeconds")
        if time.time() - since.stat().st_mtime >= (_GRACE if grace is None else grace):
            self._containers.signal(uid, CONTAINER, signal.SIGKILL)
        else:
            press_power_button(self._containers, uid)

    def forget(self, uid: str) -> None:
        """Kill the guest if it lives, and drop its folder; its console's log stays."""
        self._containers.remove(uid)
        self._heard.discard(uid)

    def known(self) -> set[str]:
        """Return those that have a folder."""
        return self._containers.known()

    def _hears(self, uid: str) -> bool:
        """Return whether QEMU has begun to tell its events, after asking it to."""
        if uid not in self._heard:
            if any("return" in answer for answer in self._events(uid)):
                self._heard.add(uid)
            else:
                _say(self._containers, uid, "qmp_capabilities")
        return uid in self._heard

    def _events(self, uid: str) -> Iterator[Object]:
        with contextlib.suppress(FileNotFoundError):
            for line in (self._containers.folder(uid) / "monitor.out").read_text().splitlines():
                with contextlib.suppress(ValueError):  # the last one may be half written
                    yield json.loads(line)


class _Preparation:
    """What one guest is started with, most of it read from the cluster."""

    def __init__(
        self, api: Api, machine: Object, launcher: Object, folder: Path, image: Path, volumes: Volumes
    ) -> None:
        self._api = api
        self._machine = machine
        self._launcher = launcher
        self._folder = folder
        self._image = image
        self._volumes = volumes
        self._ports: set[int] = set()
        """Ports on loopback that its instructions name."""

    def arguments(self, server: str, acceleration: Acceleration) -> list[str]:
        """Return QEMU's arguments, after writing the disks that tell the guest about itself."""
        domain = self._machine["spec"]["domain"]
        disks = self._disks(server)
        return [
            *processor(domain, acceleration),
            *self._kernel(domain),
            *disks,
            *self._network(domain),
            *(["-device", "virtio-rng-pci"] if "rng" in domain["devices"] else []),
            *(["-device", "pvpanic"] if domain["devices"].get("panicDevices") else []),
        ]

    def _kernel(self, domain: Object) -> list[str]:
        boot = domain.get("firmware", {}).get("kernelBoot")
        if boot is None:
            return []
        files = boot["container"]
        arguments = ["-kernel", str(self._image / Path(files["kernelPath"]).name)]
        if files.get("initrdPath"):
            arguments += ["-initrd", str(self._image / Path(files["initrdPath"]).name)]
        return [*arguments, "-append", boot.get("kernelArgs", "")]

    def _disks(self, server: str) -> list[str]:
        volumes = {volume["name"]: volume for volume in self._machine["spec"].get("volumes", ())}
        arguments = []
        for number, disk in enumerate(self._machine["spec"]["domain"]["devices"].get("disks", ())):
            name = f"disk{number}"
            file = self._file(volumes[disk["name"]], server)
            bus = (disk.get("disk") or {}).get("bus", "sata")
            device = {"virtio": "virtio-blk-pci", "sata": f"ide-hd,bus=ide.{number}"}.get(bus)
            if device is None:
                raise ConfigurationError(f"disk {disk['name']}: bus {bus} is not supported here")
            serial = f",serial={_escaped(disk['serial'])}" if disk.get("serial") else ""
            arguments += ["-drive", f"if=none,id={name},format=raw,{file}"]
            arguments += ["-device", f"{device},drive={name}{serial}"]
        return arguments

    def _file(self, volume: Object, server: str) -> str:
        if "containerDisk" in volume:
            # What is written goes to a file that has no name and ends with the guest.
            return f"file={_escaped(self._image / 'disk.img')},snapshot=on"
        if "persistentVolumeClaim" in volume:
            return (
                f"file={_escaped(self._volume(volume['persistentVolumeClaim']['claimName']))},discard=unmap"
            )
        path = self._folder / f"{volume['name']}.iso"
        if "cloudInitNoCloud" in volume:
            write_iso(path, "cidata", self._instructions(volume["cloudInitNoCloud"]))
        elif "serviceAccount" in volume:
            sandbox = Sandbox(self._api, self._launcher, self._folder, server, {})
            write_iso(path, "cfgdata", sandbox.service_account())
        else:
            raise ConfigurationError(
                f"volume {volume['name']}: {', '.join(set(volume) - {'name'})} is not supported here"
            )
        return f"file={_escaped(path)}"

    def _volume(self, claim_name: str) -> Path:
        """Return the file behind a claim; one that was provisioned before there were files is made now."""
        claim = self._get("persistentvolumeclaims", claim_name)
        volume = claim["spec"].get("volumeName", "")
        size = claim.get("status", {}).get("capacity", {}).get("storage")
        if not volume or not size:
            raise ConfigurationError(f"claim {claim_name} has no volume")
        self._volumes.provide(volume, int(amount(size)))
        return self._volumes.path(volume)

    def _instructions(self, source: Object) -> dict[str, bytes]:
        """Return the files of a NoCloud disk, with loopback addresses as a guest reaches them."""
        name = source.get("secretRef", {}).get("name")
        if not name:
            raise ConfigurationError("cloud-init is supported here from a secretRef only")
        data = self._get("secrets", name).get("data") or {}
        if "userdata" not in data:
            raise ConfigurationError(f"secret {name} has no key userdata")
        told = base64.b64decode(data["userdata"])
        self._ports = {int(port) for port in _LOOPBACK.findall(told)}
        metadata, firmware = self._machine["metadata"], self._machine["spec"]["domain"].get("firmware", {})
        identity = {
            "instance-id": firmware.get("uuid") or metadata["uid"],
            "local-hostname": self._machine["spec"].get("hostname") or metadata["name"],
        }
        return {
            "meta-data": json.dumps(identity).encode(),
            "user-data": _LOOPBACK.sub(rb"%s:\1" % HOST.encode(), told),
        }

    def _network(self, domain: Object) -> list[str]:
        """Return the ways in, which the interface lists, and out, to the services that the guest is told."""
        address = self._launcher["status"]["podIP"]
        arguments = []
        for number, interface in enumerate(domain["devices"].get("interfaces", ())):
            ways = [
                f"hostfwd={port.get('protocol', 'TCP').lower()}:{address}:{port['port']}-:{port['port']}"
                for port in interface.get("ports", ())
            ]
            for port in sorted(self._ports):
                relay = shlex.join([sys.executable, "-I", "-S", str(_RELAY), str(port)])
                ways.append(f"guestfwd=tcp:{HOST}:{port}-cmd:{_escaped(relay)}")
            network = ",".join([f"user,id=net{number},restrict=on,ipv6=off,{NETWORK}", *ways])
            mac = machines.mac(self._machine, interface)
            arguments += ["-netdev", network]
            arguments += ["-device", f"virtio-net-pci,netdev=net{number},mac={mac},romfile="]
        return arguments

    def _get(self, collection: str, name: str) -> Object:
        namespace = self._machine["metadata"]["namespace"]
        return self._api.get(f"/api/v1/namespaces/{namespace}/{collection}/{name}")


def _say(guests: Containers, uid: str, command: str) -> None:
    with contextlib.suppress(OSError):  # it does not listen yet, or no more
        pipe = os.open(guests.folder(uid) / "monitor.in", os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(pipe, json.dumps({"execute": command}).encode() + b"\n")
        finally:
            os.close(pipe)


def processor(domain: Object, acceleration: Acceleration) -> list[str]:
    """Return the machine with its size; memory that is not used is not taken."""
    cpu = domain.get("cpu", {})
    processors = cpu.get("sockets", 1) * cpu.get("cores", 1) * cpu.get("threads", 1)
    memory = f"{int(amount(domain['memory']['guest'])) >> 20}M"
    tcg = acceleration == "tcg"
    return [
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35,memory-backend=memory,usb=off", "-smp", str(processors), "-m", memory),
        *("-object", f"memory-backend-ram,id=memory,size={memory},reserve=off"),
        *("-accel", "tcg,thread=multi" if tcg else "kvm", "-cpu", "max" if tcg else "host"),
    ]


def _console(log_file: Path) -> list[str]:
    """Return the serial line, whose output goes on in the machine's log from one guest to the next."""
    log_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if log_file.exists() and log_file.stat().st_size > _CONSOLE_LIMIT:
        log_file.replace(log_file.with_suffix(".log.old"))
    if not log_file.exists():
        # Whoever follows files knows one by how it begins; consoles begin alike.
        log_file.write_text(f"{datetime.now(UTC).isoformat()} {log_file.stem}\n")
    return ["-chardev", f"file,id=console,path={_escaped(log_file)},append=on", "-serial", "chardev:console"]


def _monitor(folder: Path) -> list[str]:
    """Return the monitor on a pair of files: a pipe that it never sees the end of, and one it writes to."""
    pipe, events = folder / "monitor.in", folder / "monitor.out"
    if not pipe.exists():
        os.mkfifo(pipe, 0o600)
    events.touch(mode=0o600)
    return [
        "-chardev",
        f"pipe,id=monitor,path={_escaped(folder / 'monitor')}",
        "-mon",
        "chardev=monitor,mode=control",
    ]


def _escaped(value: str | Path) -> str:
    """Return a value as one of QEMU's comma-separated options takes it."""
    return str(value).replace(",", ",,")
