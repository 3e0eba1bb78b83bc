"""The node agent as one of the platform's servers."""

import fcntl
import os
import signal
import sys
import time

from rich.console import Console

from local import ports
from local.errors import LocalError
from local.node_agent import MODE, STATE, figures, isolation, qemu
from local.node_agent.containers import Containers
from local.paths import LOGS
from local.servers import exoscale, kubernetes
from local.supervisor import NotReady, Service

_GRACE = 15.0
_PAUSE = 0.5
"""Seconds that guests and Pods have to end, and between two looks."""


def services() -> list[Service]:
    """Tell how the agent runs."""
    return [
        Service(
            name="node-agent",
            command=[sys.executable, "-m", "local.node_agent"],
            environment={
                **kubernetes.environment(),
                **exoscale.environment(),
                MODE: _mode(),
                figures.PORT: str(figures_port()),
            },
            ports=[figures_port()],
            ready=_ready,
        )
    ]


def prepare() -> None:
    """See whether guests can be had as they are wanted, and pods kept apart; LocalError if not."""
    if obstacle := isolation.obstacle():
        raise LocalError(
            f"Pods cannot be walled off from this account ({obstacle}), so nothing was started; be root, or "
            "let users have namespaces (sysctl kernel.unprivileged_userns_clone=1, or "
            "kernel.apparmor_restrict_unprivileged_userns=0), and let everybody read this checkout and its "
            "Python."
        )
    if _mode() == "real" and (obstacle := qemu.obstacle()):
        raise LocalError(
            f"{MODE}=real, but {obstacle}, so no machine could boot and nothing was started; mend that, or "
            "leave the variable out to have machines only reported."
        )


def bootstrap() -> None:
    """Nothing to do: nodes come with the first node pool."""


def environment() -> dict[str, str]:
    """Nothing: the agent has clients of its own only."""
    return {}


def guests() -> str:
    """Tell in a few words whether machines have guests, or why they are only reported."""
    if _mode() == "reported":
        return f"reported only: {MODE}=reported"
    if obstacle := qemu.obstacle():
        return f"reported only: {obstacle}"
    return "real, in QEMU"


def have_guests() -> bool:
    """Tell whether machines whose image is ours have guests."""
    return _mode() != "reported" and not qemu.obstacle()


def end_workloads(console: Console) -> None:
    """End the guests and the processes of Pods, which outlive the agent but not the platform.

    What should run starts anew with the next agent.
    """
    left: tuple[Containers, ...] = tuple(
        Containers(STATE / name, LOGS / name, lambda _: None) for name in ("guests", "pods")
    )
    if not any(containers.known() for containers in left):
        return
    with console.status("node-agent: shutting down guests and Pods"):
        deadline = time.monotonic() + _GRACE
        while (running := _ask_to_end(*left)) and time.monotonic() < deadline:
            time.sleep(_PAUSE)
        if running:
            console.print(f"node-agent: {running} guests or containers did not end in {_GRACE:.0f} s: killed")
    for containers in left:
        for uid in containers.known():
            containers.remove(uid)


def _ask_to_end(guests: Containers, pods: Containers) -> int:
    """Press every power button, end every Pod; return how many still run."""
    running = 0
    for uid in guests.known():
        if qemu.press_power_button(guests, uid):
            running += 1
    for uid in pods.known():
        for folder in pods.folder(uid).iterdir():
            if (attempt := pods.last(uid, folder.name)) and attempt.exit_code is None:
                pods.signal(uid, folder.name, signal.SIGTERM)
                running += 1
    return running


def figures_port() -> int:
    """Return the port at which the agent tells what guests use."""
    return ports.port("node-agent-figures")


def _mode() -> str:
    mode = os.environ.get(MODE, "auto")
    if mode not in ("auto", "real", "reported"):
        raise LocalError(
            f"{MODE}: {mode!r} is none of auto, real and reported, so nothing was started; set one of these."
        )
    return mode


def _ready() -> None:
    with (STATE / "at-work").open() as at_work:
        try:
            fcntl.flock(at_work, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # the agent holds it
    raise NotReady("reads the cluster's state")
