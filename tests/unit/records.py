"""Sessions as tests write them, and the framed records that the kernel makes."""

from __future__ import annotations

import struct
from socket import AF_INET6, inet_pton
from typing import NamedTuple, Protocol

from tcplife import layout

# kernel/bpf/ringbuf.c: length with its flags, page offset
FRAME = struct.Struct("=II")
BODY = struct.Struct("=" + "".join(code for _, code in layout.SESSION_EVENT))
OWNER = struct.Struct("=" + "".join(code for _, code in layout.OWNER))

# From the records' clock to the wall clock.
WALL_OFFSET = 1_790_000_000_123_456_789


class Session(NamedTuple):
    """An unknown owner is PID 0. An IPv4 address may be written mapped into IPv6."""

    pid: int = 4321
    comm: bytes = b"curl"
    laddr: str = "127.0.0.1"
    lport: int = 40000
    raddr: str = "127.0.0.2"
    rport: int = 443
    tx_bytes: int = 0
    rx_bytes: int = 0
    time_ns: int = 5_000_000_000
    life_us: int = 2_000
    span_us: int = 1_000


def pack(*sessions: Session) -> memoryview:
    """Their records, one behind the other."""
    return memoryview(b"".join(map(frame, sessions)))


def frame(session: Session, flags: int = 0) -> bytes:
    assert len(session.comm) < 16, "the kernel's names end with a NUL"
    values: dict[str, int | bytes] = {
        **session._asdict(),
        "owner": OWNER.pack(session.pid, session.comm),
        "laddr": _address(session.laddr),
        "raddr": _address(session.raddr),
    }
    fields = [values[name] for name, _ in layout.SESSION_EVENT]
    return FRAME.pack(BODY.size | flags, 0) + BODY.pack(*fields)


def _address(text: str) -> bytes:
    return inet_pton(AF_INET6, text if ":" in text else f"::ffff:{text}")


class Show(Protocol):
    """What `tcplife OPTIONS` writes to its standard output for these sessions.

    batch: how many of them come at once; 0: all.
    """

    def __call__(self, options: str, *sessions: Session, batch: int = 0) -> str: ...
