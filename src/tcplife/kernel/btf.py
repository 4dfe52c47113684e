"""The kernel's description of its own types, where it brings none itself."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcplife.kernel.libbpf import Library

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


def readable(library: Library, path: str) -> bool:
    """Whether there is BTF in a file, as libbpf understands it."""
    parsed = library.btf__parse(os.fsencode(path), None)
    library.btf__free(parsed)
    return bool(parsed)


def in_vmlinux(library: Library) -> bool:
    """Whether libbpf has found BTF where it looks by itself."""
    parsed = library.btf__load_vmlinux_btf()
    library.btf__free(parsed)
    return bool(parsed)
