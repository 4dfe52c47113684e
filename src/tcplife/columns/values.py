"""From a record's fields to what people call them."""

from __future__ import annotations

import time
from functools import lru_cache

from tcplife.columns.cgroup_paths import container as container
from tcplife.columns.cgroup_paths import pod as pod
from tcplife.columns.cgroup_paths import short as short
from tcplife.records.wire import split_owner

_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291, 2.5.5.2


def address(raw: bytes) -> str:
    if raw.startswith(_MAPPED):
        return ".".join(map(str, raw[12:]))
    import socket  # 3 ms that only IPv6 should pay, and the start should not

    return socket.inet_ntop(socket.AF_INET6, raw)


def family(raw: bytes) -> int:
    """4 or 6, from an address."""
    return 4 if raw.startswith(_MAPPED) else 6


def pid(owner: bytes) -> int | None:
    return split_owner(owner)[0] or None


def comm(owner: bytes) -> str | None:
    r"""The process's name; bytes that are no UTF-8 show as `\x9b`."""
    return task_comm(owner) if split_owner(owner)[0] else None


def task_pid(task: bytes) -> int:
    """The PID on a processor, 0 if that is idle."""
    return split_owner(task)[0]


def task_comm(task: bytes) -> str:
    return split_owner(task)[1].decode("utf-8", "backslashreplace")


# include/net/tcp_states.h, as bcc writes them
_STATES = {
    1: "ESTABLISHED",
    2: "SYN_SENT",
    3: "SYN_RECV",
    4: "FIN_WAIT1",
    5: "FIN_WAIT2",
    6: "TIME_WAIT",
    7: "CLOSE",
    8: "CLOSE_WAIT",
    9: "LAST_ACK",
    10: "LISTEN",
    11: "CLOSING",
    12: "NEW_SYN_RECV",
}
STATES = {name: number for number, name in _STATES.items()}


def state(number: int) -> str:
    return _STATES.get(number, str(number))


@lru_cache(maxsize=8)
def clock(seconds: int) -> str:
    """Local HH:MM:SS of seconds since 1970."""
    return time.strftime("%H:%M:%S", time.localtime(seconds))


@lru_cache(maxsize=8)
def _date_time(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def hex_text(number: int) -> str:
    return f"{number:x}"


def span_json(microseconds: int) -> str:
    """Milliseconds; null for a span that is not known, -1."""
    return "null" if microseconds < 0 else str(microseconds / 1000)


def rfc3339(microseconds: int) -> str:
    """UTC date and time of microseconds since 1970, as a JSON string."""
    seconds, fraction = divmod(microseconds, 1000000)
    return f'"{_date_time(seconds)}.{fraction:06d}Z"'


# By number, as records/abi.py has them in DIR, END and FIRST.
DIRS = (None, "out", "in")
ENDS = (
    "open",
    "closed",
    "reset-by-peer",
    "reset-by-us",
    "refused",
    "unreachable",
    "timeout",
    "given-up",
    "destroyed",
)
FIRSTS = (None, "local", "remote", "both")

BORN = ("traced", "before-trace")

# Durations that are not known.
_NEVER = (0xFFFFFFFFFFFFFFFF, 0xFFFFFFFF)


def ms(microseconds: int) -> float | None:
    return None if microseconds in _NEVER else microseconds / 1000


def ms_text(microseconds: int) -> str | None:
    """Above a second with as many decimals as have room."""
    if microseconds in _NEVER:
        return None
    decimals = 2 if microseconds < 1000000 else 1 if microseconds < 100000000 else 0
    return f"{microseconds / 1000:.{decimals}f}"


def at_least(text: str, part: bool) -> str:
    """Marks a duration of which only a part was seen."""
    return f">{text}" if part else text


def rtt(microseconds: int) -> int:
    """0, for one that was never measured, becomes one that isn't known."""
    return microseconds or _NEVER[0]


def rate(amount: int, microseconds: int) -> int | None:
    """Bytes a second; null for less than a millisecond, which would mean nothing."""
    return amount * 1000000 // microseconds if microseconds >= 1000 else None


def rate_kib(amount: int, microseconds: int) -> str | None:
    found = rate(amount, microseconds)
    return None if found is None else f"{found / 1024:.1f}"


def error_name(number: int) -> str | None:
    from tcplife.columns.errnos import NAMES

    return NAMES.get(number, str(number)) if number else None


def c_text(raw: bytes) -> str | None:
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace") or None


def if_owned(owner: bytes, value: int) -> int | None:
    """`value` of the owner, where there is one."""
    return value if split_owner(owner)[0] else None


def user_name(uid: int | None) -> str | None:
    """The name of a user ID, or its number where it has none."""
    if uid is None:
        return None
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
