"""Why this host does not let us trace, and what to do about it.

Each probe answers one question, and is asked only after loading has failed.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence

from tcplife.kernel.btf import KERNEL
from tcplife.kernel.privileges import effective

LOCKDOWN = "/sys/kernel/security/lockdown"

# arch/*/entry/syscalls: the number of bpf(2)
_BPF_SYSCALL = {"x86_64": 321, "aarch64": 280}
_BPF_MAP_CREATE = 0
_BPF_MAP_TYPE_ARRAY = 2


def explain(
    failures: Sequence[str], complaints: Sequence[str], btf: str | None = None
) -> str:
    """One line: the first thing that is missing, and the remedy.

    failures: what each tier said; complaints: libbpf's warnings; btf: the file that
    the user has given.
    """
    probes = [missing_capabilities, refused_syscall, missing_btf, locked_down]
    if btf:
        probes.remove(missing_btf)
    for probe in probes:
        found = probe()
        if found:
            return found
    telling = "; ".join([*failures, *complaints[:1]])
    return (
        f"this kernel ({os.uname().release}) does not take the programs; --check says"
        f" what is missing ({telling})"
    )


def missing_capabilities() -> str:
    """CAP_BPF and CAP_PERFMON (Linux 5.8), or CAP_SYS_ADMIN, which implies both."""
    held = effective()
    if "CAP_SYS_ADMIN" in held:
        return ""
    missing = [name for name in ("CAP_BPF", "CAP_PERFMON") if name not in held]
    if not missing:
        return ""
    return (
        f"tracing is not permitted: {' and '.join(missing)} missing;"
        " run it with sudo, or give it the capabilities CAP_BPF and CAP_PERFMON"
    )


def refused_syscall() -> str:
    """bpf(2) itself, which a container's seccomp profile may refuse."""
    number = _BPF_SYSCALL.get(os.uname().machine)
    if number is None:
        return ""
    attributes = (ctypes.c_uint32 * 32)(_BPF_MAP_TYPE_ARRAY, 4, 4, 1)
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(
        number, _BPF_MAP_CREATE, attributes, ctypes.c_uint(ctypes.sizeof(attributes))
    )
    if fd >= 0:
        os.close(fd)
        return ""
    code = ctypes.get_errno()
    if code == errno.ENOSYS:
        return "this kernel has no bpf(2): it is built without CONFIG_BPF_SYSCALL"
    if code in (errno.EPERM, errno.EACCES):
        return (
            "bpf(2) is refused in spite of the capabilities, as in a user namespace"
            " or by a container's seccomp profile; trace on the host, or allow bpf(2)"
        )
    return ""


def missing_btf() -> str:
    """The kernel's description of its own types (CONFIG_DEBUG_INFO_BTF)."""
    if os.access(KERNEL, os.R_OK):
        return ""
    return (
        f"{KERNEL} is not there: the kernel has no BTF; give it with --btf FILE, from"
        " BTFHub, or use a kernel that is built with CONFIG_DEBUG_INFO_BTF"
        " (distributions' kernels since about 2020 are)"
    )


def locked_down() -> str:
    """Kernel lockdown: in "confidentiality", BPF may not read kernel memory."""
    try:
        with open(LOCKDOWN, encoding="ascii") as file:
            mode = file.read()
    except OSError:  # securityfs isn't mounted, or lockdown not built in
        return ""
    if "[confidentiality]" not in mode:
        return ""
    return (
        "the kernel is locked down (confidentiality), so that BPF may not read it;"
        " boot with lockdown=integrity or without lockdown"
    )
