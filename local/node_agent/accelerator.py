"""How QEMU runs a guest's instructions here: by KVM where a kernel boots under it, else by emulation."""

import json
import logging
import os
import subprocess
import threading
from pathlib import Path
from typing import Literal

from local import store

log = logging.getLogger(__name__)

Acceleration = Literal["kvm", "tcg"]

_DEVICE = Path("/dev/kvm")
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PATIENCE = 15.0


class Accelerator:
    """Answers without blocking; a probe runs beside, once per boot of this machine, emulator and kernel."""

    def __init__(self, emulator: Path, kernel: Path, record: Path) -> None:
        """Probe nothing yet; the answer is kept in `record`."""
        self._emulator = emulator
        self._kernel = kernel
        self._record = record
        self._probe: threading.Thread | None = None

    def answer(self) -> Acceleration | None:
        """Return how to run guests, None while a probe finds out."""
        if not os.access(_DEVICE, os.R_OK | os.W_OK):
            return "tcg"
        known = self._known()
        if known is None and self._probe is None:
            self._probe = threading.Thread(target=self._find_out, daemon=True)
            self._probe.start()
        return known

    def _known(self) -> Acceleration | None:
        try:
            record = json.loads(self._record.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return record["answer"] if record["about"] == self._about() else None

    def _about(self) -> str:
        version = self._emulator.resolve().stat()
        return f"{_BOOT.read_text().strip()} {version.st_mtime_ns} {version.st_size} {self._kernel}"

    def _find_out(self) -> None:
        answer: Acceleration = "kvm" if self._boots() else "tcg"
        log.info("guests run by %s", "KVM" if answer == "kvm" else "emulation: no kernel boots under KVM")
        store.write(self._record, {"about": self._about(), "answer": answer})

    def _boots(self) -> bool:
        """Whether a kernel without a root file system comes so far as to miss it, and resets."""
        machine = ("-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-m", "256M")
        kernel = ("-no-reboot", "-kernel", self._kernel, "-append", "console=ttyS0 panic=-1")
        try:
            done = subprocess.run(
                [self._emulator, "-accel", "kvm", "-cpu", "host", *machine, *kernel],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0
