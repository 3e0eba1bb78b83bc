"""The least that can boot and answer: the machines' own kernel and modules, and busybox's httpd.

It is the floor under a machine's time to wake, and a guest for tests that need no agent.
"""

import re
import shutil
from pathlib import Path

from images import cpio

_NOT_NEEDED = (b"erofs", b"isofs", b"cdrom")

_INIT = """\
#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t sysfs sysfs /sys
$B mount -t devtmpfs devtmpfs /dev
for module in @MODULES@; do $B insmod /lib/$module.ko; done
$B ip addr add 10.0.2.2/24 dev eth0
$B ip link set eth0 up
$B mkdir /www
echo well >/www/readyz
if [ -n "$crash" ]; then echo c >/proc/sysrq-trigger; fi
if [ -n "$volume" ]; then
    $B head -c 6 /dev/vda >/www/before
    echo filled >/dev/vda
    $B sync
fi
for address in $fetch; do
    patience=60
    (
        echo "GET / HTTP/1.0"; echo
        while [ ! -s /www/fetched ] && [ $((patience -= 1)) -gt 0 ]; do $B sleep 0.5; done
    ) | $B nc -w 5 ${address%:*} ${address#*:} >>/www/fetched
done
$B httpd -p 8080 -h /www
for button in /dev/input/event*; do
    ($B dd if=$button bs=24 count=1 >/dev/null 2>&1 && $B poweroff -f) &
done
while :; do $B sleep 3600; done
"""
"""Kernel arguments are its variables: `crash` panics; `volume` reads and writes the first disk; `fetch` asks.

What it read is served as `/before` and `/fetched`.
"""


def make(image: Path, folder: Path) -> Path:
    """Make the guest in `folder`, with the kernel files that `image` has."""
    initial = (image / "initrd").read_bytes()
    (modules,) = re.findall(rb"for module in ([^;]+);", initial)  # in the order in which it loads them
    needed = b" ".join(name for name in modules.split() if name not in _NOT_NEEDED).decode()
    init = cpio.file("init", _INIT.replace("@MODULES@", needed).encode(), executable=True)
    folder.mkdir(parents=True, exist_ok=True)
    # The kernel unpacks one archive after the other, so that the last `init` counts.
    (folder / "initrd").write_bytes(initial + bytes(-len(initial) % 512) + cpio.archive([init]))
    shutil.copy(image / "vmlinuz", folder / "vmlinuz")
    return folder
