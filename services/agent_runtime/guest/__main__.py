"""The first process of a machine.

It does what the platform told the machine, starts the runtime as a user who is not root, starts it anew when
it dies, and shuts down when the power button is pressed. If it fails itself, the kernel stops the machine,
which the hypervisor sees.
"""

import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

from services.agent_runtime import HANDED_OVER
from services.agent_runtime.guest import instructions, power, system

_USER = 1000
_VPN = Path("/etc/wireguard/wg0.conf")
_TOKEN = Path("/run/agent-platform/token")
_PACKAGES = Path("/usr/lib/agent-platform/packages")
"""Python's packages, beside our sources."""
_LEASE = "/usr/lib/agent-platform/udhcpc"
"""What sets the address that was given."""
_GRACE = 2.0
_PATIENCE = 1.0


def main() -> None:
    """Set the machine up and keep it running until it is switched off."""
    told("set up")
    _ask_for_an_address()
    _set_up()
    _Machine().run()


def told(what: str) -> None:
    """Say something on the console, with the seconds since the kernel started."""
    sys.stderr.write(f"[{time.clock_gettime(time.CLOCK_BOOTTIME):8.3f}] agent-platform: {what}\n")


def _ask_for_an_address() -> None:
    """In the background, and here: what the initial file system has in the background is gone with it."""
    system.start("/bin/busybox", "udhcpc", "-b", "-S", "-t", "20", "-T", "1", "-i", "eth0", "-s", _LEASE)


def _set_up() -> None:
    try:
        config = system.labelled("cidata")
        if config is None:
            raise instructions.RefusedError("no disk is labelled cidata, so this machine is nobody's.")
        with system.mounted(config, "/run/agent-platform/cidata") as folder:
            to_do = instructions.parse((folder / "user-data").read_text())
        told("instructions read")
        socket.sethostname(to_do.hostname)
        for file in to_do.files:
            Path(file.path).parent.mkdir(parents=True, exist_ok=True)
            Path(file.path).write_text(file.content)
            Path(file.path).chmod(file.mode)
        for volume in to_do.volumes:
            _mount(volume)
        _take_token()
    except (instructions.RefusedError, system.FailedError, OSError) as error:
        # The runtime is started all the same: it tells who asks for its health what is missing.
        told(str(error))
    told("set up done")


def _mount(volume: instructions.Volume) -> None:
    device = system.disk(volume.serial)
    if device is None:
        raise system.FailedError(
            f"there is no disk {volume.serial}, so nothing is mounted at {volume.folder}"
        )
    if not system.is_ext4(device):
        if volume.label is None:
            raise system.FailedError(f"{device} is blank and nothing says that it is to be formatted")
        told(f"formatting {device}")
        system.run("/sbin/mkfs.ext4", "-q", "-L", volume.label, "-E", "lazy_itable_init=1", str(device))
    system.busybox("mount", "-t", "ext4", "-o", "nosuid,nodev,discard", str(device), str(volume.folder))
    os.chown(volume.folder, _USER, _USER)
    told(f"{volume.folder} mounted")


def _take_token() -> None:
    device = system.disk("service-account")
    if device is None:
        raise system.FailedError("there is no disk service-account, so Vault will not let this machine in")
    with system.mounted(device, "/run/agent-platform/service-account") as folder:
        token = (folder / "token").read_text()
    _TOKEN.touch(mode=0o400)
    _TOKEN.write_text(token)
    os.chown(_TOKEN, _USER, _USER)


def _complete_devices() -> None:
    """What programs look for below /dev and nobody waits for when a machine wakes."""
    try:
        Path("/dev/fd").symlink_to("/proc/self/fd")
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            Path("/dev", name).symlink_to(f"/proc/self/fd/{number}")
        for name, kind, options in (
            ("pts", "devpts", "mode=620,gid=5,ptmxmode=666"),
            ("shm", "tmpfs", "mode=1777,nosuid,nodev"),
        ):
            Path("/dev", name).mkdir(exist_ok=True)
            system.busybox("mount", "-t", kind, "-o", options, kind, f"/dev/{name}")
    except (system.FailedError, OSError) as error:
        told(f"/dev is not complete: {error}")


class _Machine:
    """The machine while it runs."""

    def __init__(self) -> None:
        self._runtime = 0
        self._started = 0.0
        self._stopping = False

    def run(self) -> None:
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writing)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        poll = select.poll()
        buttons = power.buttons()
        for descriptor in (reading, *buttons):
            poll.register(descriptor, select.POLLIN)
        self._start()
        _complete_devices()
        if _VPN.exists() and os.fork() == 0:
            _bring_up_vpn()
        while True:
            for descriptor, _ in poll.poll():
                if descriptor in buttons:
                    if power.pressed(descriptor):
                        self._shut_down("the power button was pressed")
                else:
                    if signal.SIGTERM in os.read(reading, 64):
                        self._shut_down("told to stop")
                    self._reap()

    def _start(self) -> None:
        self._started = time.monotonic()
        self._runtime = os.fork()
        if self._runtime == 0:
            _become_runtime()

    def _reap(self) -> None:
        while True:
            try:
                child, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if child == 0:
                return
            if child == self._runtime and os.waitstatus_to_exitcode(status) == HANDED_OVER:
                self._shut_down("its workspace is handed over")
            if child == self._runtime:
                told(f"the runtime ended with {os.waitstatus_to_exitcode(status)}: starting it anew")
                time.sleep(max(0.0, _PATIENCE - (time.monotonic() - self._started)))
                self._start()

    def _shut_down(self, why: str) -> None:
        told(f"shutting down: {why}")
        os.kill(-1, signal.SIGTERM)
        end = time.monotonic() + _GRACE
        while time.monotonic() < end and self._alive():
            time.sleep(0.02)
        os.kill(-1, signal.SIGKILL)
        os.sync()
        try:
            system.busybox("umount", "/workspace")
        except system.FailedError as error:
            told(str(error))
        told("off")
        system.busybox("poweroff", "-f")

    def _alive(self) -> bool:
        try:
            return os.waitpid(-1, os.WNOHANG) is not None
        except ChildProcessError:
            return False


def _bring_up_vpn() -> None:
    """In a process of its own: Vault may be away, and who waits for the agents does not wait for this."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Only now, and not before the runtime: it needs what most machines do without.
        from services.agent_runtime.guest import vpn

        vpn.bring_up(_VPN)
        told("VPN up")
    except (system.FailedError, OSError) as error:
        told(f"there is no VPN: {error}")
    finally:
        os._exit(0)


def _become_runtime() -> None:
    """Go on as the runtime, in a process of its own and as a user who is not root."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.setgroups([])
        os.setgid(_USER)
        os.setuid(_USER)
        os.environ.update(HOME="/workspace", USER="agent", TMPDIR="/tmp")  # noqa: S108 — the machine's own
        # Only now: whoever looks for a module looks there last, and the setting up needs none of them.
        sys.path.append(str(_PACKAGES))
        os.environ["PYTHONPATH"] = f"{_PACKAGES.parent}:{_PACKAGES}"
        from services.agent_runtime.__main__ import main as serve

        serve()
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
