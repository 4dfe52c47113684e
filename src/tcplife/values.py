"""From a record's fields to what people call them."""

from __future__ import annotations

import time
from functools import lru_cache

from tcplife.events import split_owner

_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291, 2.5.5.2


def address(raw: bytes) -> str:
    import socket  # 3 ms that the first row should pay, not the start

    if raw.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, raw[12:])
    return socket.inet_ntop(socket.AF_INET6, raw)


def family(raw: bytes) -> int:
    """4 or 6, from an address."""
    return 4 if raw.startswith(_MAPPED) else 6


def pid(owner: bytes) -> int | None:
    return split_owner(owner)[0]


def comm(owner: bytes) -> str | None:
    r"""The process's name; bytes that are no UTF-8 show as `\x9b`."""
    known, name = split_owner(owner)
    return name.decode("utf-8", "backslashreplace") if known else None


@lru_cache(maxsize=8)
def clock(seconds: int) -> str:
    """Local HH:MM:SS of seconds since 1970."""
    return time.strftime("%H:%M:%S", time.localtime(seconds))


@lru_cache(maxsize=8)
def _date_time(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def rfc3339(microseconds: int) -> str:
    """UTC date and time of microseconds since 1970, as a JSON string."""
    seconds, fraction = divmod(microseconds, 1000000)
    return f'"{_date_time(seconds)}.{fraction:06d}Z"'
