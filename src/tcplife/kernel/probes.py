"""Why this host does not let us trace, and what to do about it.

Each probe answers one question, and is asked only after loading has failed.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence

from tcplife.errors import too_many_files
from tcplife.kernel import btf
from tcplife.kernel.privileges import effective, status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcplife.kernel.libbpf import Library

LOCKDOWN = "/sys/kernel/security/lockdown"

KPROBES = (
    "/sys/bus/event_source/devices/kprobe",
    "/sys/kernel/tracing/kprobe_events",
    "/sys/kernel/debug/tracing/kprobe_events",
)
# arch/*/entry/syscalls: the number of bpf(2)
_BPF_SYSCALL = {"x86_64": 321, "aarch64": 280}
_BPF_MAP_CREATE = 0
_BPF_MAP_TYPE_ARRAY = 2


def missing(library: Library, given: str | None = None) -> str:
    """One line: the first thing that is missing, and the remedy; empty if nothing is.

    given: the file with BTF that the user has given.
    """
    return (
        missing_capabilities()
        or refused_syscall()
        or ("" if given else missing_btf(library))
        or locked_down()
        or missing_memory(library.complaints)
    )


def explain(
    tiers: Sequence[int],
    failures: Sequence[str],
    complaints: Sequence[str],
    asked: str = "",
) -> str:
    """One line for a host that has all that missing() asks for, and yet refuses.

    tiers: those that were tried; failures: what each said; asked: the options that
    other tiers do not have.
    """
    telling = "; ".join([*failures, *complaints[:1]])
    kernel = f"this kernel ({os.uname().release})"
    if asked:
        return (
            f"{asked} takes tier {tiers[0]}, which {kernel} does not have: trace"
            f" without it, or on a newer kernel; --check says more ({telling})"
        )
    which = f"tier {tiers[0]}" if len(tiers) == 1 else "any tier"
    return (
        f"{kernel} does not take the programs of {which}; --check says what is missing"
        f" ({telling})"
    )


def missing_descriptors(said: Sequence[str]) -> str:
    """Maps, programs and links are descriptors: some 60 of them."""
    emfile = os.strerror(errno.EMFILE)
    return too_many_files() if any(emfile in text for text in said) else ""


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
    if code in (errno.ENOSYS, errno.EPERM, errno.EACCES) and status("Seccomp") != "0":
        return (
            "bpf(2) is refused by a seccomp filter, as a container has it; allow"
            " bpf(2) there, or trace on the host"
        )
    if code == errno.ENOSYS:
        return "this kernel has no bpf(2): it is built without CONFIG_BPF_SYSCALL"
    if code in (errno.EPERM, errno.EACCES):
        return (
            "bpf(2) is refused in spite of the capabilities, as in a user namespace;"
            " trace on the host"
        )
    return ""


def missing_memory(complaints: Sequence[str]) -> str:
    """Before Linux 5.11, what BPF takes counts as locked memory."""
    if not any("RLIMIT_MEMLOCK" in complaint for complaint in complaints):
        return ""
    return (
        "too little memory may be locked, which Linux before 5.11 has BPF do; run it"
        " with sudo, with `ulimit -l unlimited`, or give it CAP_SYS_RESOURCE"
    )


def missing_btf(library: Library) -> str:
    """The kernel's description of its own types (CONFIG_DEBUG_INFO_BTF)."""
    if os.access(btf.KERNEL, os.R_OK):
        return ""
    release = os.uname().release
    found = btf.find_btf()
    if found:
        return "" if btf.readable(library, found) else f"{found}: there is no BTF in it"
    if btf.in_vmlinux(library):
        return ""
    return (
        f"{btf.KERNEL} is not there, nor another description of this kernel's types:"
        f" give BTFHub's file for {release}, unpacked, with --btf FILE or as"
        f" {btf.PLACES[0].format(release)}, or use a kernel that is built with"
        " CONFIG_DEBUG_INFO_BTF, as distributions' are since about 2020"
    )


def missing_kprobes() -> str:
    """By perf_event_open(2) since Linux 4.17; before, by a file of tracefs."""
    if any(os.path.exists(path) for path in KPROBES):
        return ""
    return (
        "there are no kprobes: the kernel is built without CONFIG_KPROBE_EVENTS, or is"
        " older than 4.17 with tracefs not mounted"
        " (mount -t tracefs none /sys/kernel/tracing)"
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
