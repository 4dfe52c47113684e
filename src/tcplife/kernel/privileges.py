"""Giving up what tracing does not need once it has begun."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection, Iterable

from tcplife.errors import UnavailableError

# include/uapi/linux/capability.h
CAPABILITIES = {
    "CAP_DAC_OVERRIDE": 1,
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
# What is used once tracing has begun. To look for the owners of sessions: to load a
# program that does, or to see the descriptors of all processes in /proc
# (fs/proc/fd.c, proc_fd_permission(); fs/proc/base.c, proc_fd_access_allowed()).
IN_KERNEL = {"CAP_BPF", "CAP_PERFMON"}
IN_PROC = {"CAP_BPF", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"}
# To enter the network namespaces of others, and to walk over their sockets.
ENTER = {"CAP_BPF", "CAP_SYS_PTRACE", "CAP_SYS_ADMIN"}
_VERSION_3 = 0x20080522
# include/uapi/linux/prctl.h
_PR_SET_KEEPCAPS = 8
_PR_SET_NO_NEW_PRIVS = 38


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    """struct __user_cap_data_struct: the low, then the high 32 capabilities."""

    _fields_ = tuple(
        (f"{name}_{half}", ctypes.c_uint32)
        for half in ("low", "high")
        for name in ("effective", "permitted", "inheritable")
    )


def status(field: str) -> str:
    """A field of /proc/self/status; "0" if this kernel does not have it."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        lines = [line.split() for line in file if line.startswith(f"{field}:")]
    return lines[0][1] if lines else "0"


def effective() -> set[str]:
    """Those of CAPABILITIES that the process has."""
    held = int(status("CapEff"), 16)
    return {name for name, number in CAPABILITIES.items() if held >> number & 1}


def kept_of(held: set[str], needed: set[str]) -> set[str]:
    """What to keep of the capabilities that one has."""
    kept = held & needed
    # CAP_SYS_ADMIN stands for the other two before Linux 5.8, and for who has it
    # without them.
    if needed & {"CAP_BPF", "CAP_PERFMON"} - kept:
        kept |= held & {"CAP_SYS_ADMIN"}
    return kept


def give_up(needed: Iterable[str], user: str | None) -> list[str]:
    """Keeps only the needed capabilities, of those it has; becomes `user`.

    Returns what is kept. For the calling thread and those that it starts.
    Raises UnavailableError if it may not become that user.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    kept = kept_of(effective(), set(needed))
    if user is not None:
        libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
        _become(user)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _set(libc, kept)
    return sorted(kept)


def _become(user: str) -> None:
    import pwd

    found = pwd.getpwnam(user)
    try:
        if os.getuid() != found.pw_uid:
            os.initgroups(user, found.pw_gid)
            os.setresgid(found.pw_gid, found.pw_gid, found.pw_gid)
            os.setresuid(found.pw_uid, found.pw_uid, found.pw_uid)
    except PermissionError:
        raise UnavailableError(
            f"--user {user}: that takes root, or CAP_SETUID and CAP_SETGID"
        ) from None


def _set(libc: ctypes.CDLL, kept: Collection[str]) -> None:
    bits = sum(1 << CAPABILITIES[name] for name in kept)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    sets = _Sets(low, low, 0, high, high, 0)
    header = _Header(_VERSION_3, 0)
    # That it is refused to give up what one has cannot be: see capset(2).
    if libc.capset(ctypes.byref(header), ctypes.byref(sets)):
        raise OSError(ctypes.get_errno(), "capset")
