"""Whether machines boot as guests here, or are only reported Running."""

import os

from local.node_agent import MODE, qemu


def obstacle() -> str:
    """Why machines are only reported; empty if those with our image boot."""
    if os.environ.get(MODE) == "reported":
        return f"{MODE} is `reported`"
    return qemu.obstacle()


def told() -> str:
    """One line for people."""
    reason = obstacle()
    return (
        f"Machines are only reported Running, no guest boots: {reason}."
        if reason
        else "Machines boot as guests in QEMU; their consoles are among the logs of `make logs`."
    )
