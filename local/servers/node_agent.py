"""The node agent as one of the platform's servers."""

import fcntl
import sys

from local.node_agent import STATE
from local.servers import exoscale, kubernetes
from local.supervisor import NotReady, Service


def services() -> list[Service]:
    """Tell how the agent runs."""
    return [
        Service(
            name="node-agent",
            command=[sys.executable, "-m", "local.node_agent"],
            environment={**kubernetes.environment(), **exoscale.environment()},
            ready=_ready,
        )
    ]


def prepare() -> None:
    """Nothing to do: the agent makes its folder."""


def bootstrap() -> None:
    """Nothing to do: nodes come with the first node pool."""


def environment() -> dict[str, str]:
    """Nothing: the agent has clients of its own only."""
    return {}


def _ready() -> None:
    with (STATE / "at-work").open() as at_work:
        try:
            fcntl.flock(at_work, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # the agent holds it
    raise NotReady("reads the cluster's state")
