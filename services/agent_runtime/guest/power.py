"""The power button, as the kernel's input layer reports it."""

import os
import struct
from pathlib import Path

_EVENT = struct.Struct("llHHi")
_KEY, _POWER, _PRESSED = 1, 116, 1


def buttons() -> list[int]:
    """Open all input devices, as file descriptors to be polled."""
    return [
        os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        for device in sorted(Path("/dev/input").glob("event*"))
    ]


def pressed(descriptor: int) -> bool:
    """Whether what is to be read there says that the power button was pressed."""
    events = os.read(descriptor, 64 * _EVENT.size)
    return any(
        (kind, code, value) == (_KEY, _POWER, _PRESSED)
        for _, _, kind, code, value in _EVENT.iter_unpack(events)
    )
