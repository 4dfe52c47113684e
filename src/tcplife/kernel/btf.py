"""The kernel's description of its own types, where it brings none itself."""

from __future__ import annotations

import os

KERNEL = "/sys/kernel/btf/vmlinux"
# Where libbpf does not look by itself, which is for a vmlinux with BTF in it, in
# /boot, /lib/modules and /usr/lib/debug: files like BTFHub's, unpacked.
PLACES = (
    "/var/lib/tcplife/{}.btf",
    "/usr/lib/btf/{}.btf",
    "/lib/modules/{}/vmlinux.btf",
    "/boot/vmlinux-{}.btf",
)


def find_btf() -> str | None:
    """A file to use for want of the kernel's own BTF."""
    if os.access(KERNEL, os.R_OK):
        return None
    release = os.uname().release
    for place in PLACES:
        path = place.format(release)
        if os.access(path, os.R_OK):
            return path
    return None
