"""Sessions as tests write them, and the framed records that the kernel makes."""

from __future__ import annotations

import struct
from socket import AF_INET6, inet_pton
from typing import NamedTuple, Protocol

from tcplife.records import abi
from tcplife.records.wire import SESSION, Wire

# kernel/bpf/ringbuf.c: length with its flags, page offset
FRAME = struct.Struct("=II")
OWNER = struct.Struct("=" + "".join(code for _, code in abi.OWNER))

# What the host would answer.
CGROUPS = {
    1: "/",
    2: "/system.slice/docker-" + "0123456789abcdef" * 4 + ".scope",
}
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
    # Of the story, which not all records have.
    dir: int = 1
    end: int = 1
    first: int = 2
    error: int = 0
    connect_us: int = 1_000
    open_us: int = 900
    close_us: int = 100
    srtt_us: int = 250
    min_rtt_us: int = 125
    retrans: int = 0
    retrans_bytes: int = 0
    lost_bytes: int = 0
    unread_bytes: int = 0
    mss: int = 1448
    segs_in: int = 5
    segs_out: int = 6
    uid: int = 0
    ppid: int = 1
    netns: int = 4026531840
    cgroup: int = 1
    before: int = 0
    cc: bytes = b"cubic"


def pack(*sessions: Session, wire: Wire = SESSION) -> memoryview:
    """Their records, one behind the other."""
    return memoryview(b"".join(frame(session, wire=wire) for session in sessions))


def frame(session: Session, flags: int = 0, wire: Wire = SESSION) -> bytes:
    assert len(session.comm) < 16, "the kernel's names end with a NUL"
    values: dict[str, int | bytes] = {
        **session._asdict(),
        "owner": OWNER.pack(session.pid, session.comm),
        "laddr": _address(session.laddr),
        "raddr": _address(session.raddr),
        "unused": b"",
    }
    body = struct.Struct("=" + "".join(wire.fields.values()))
    fields = [values[name] for name in wire.fields]
    return FRAME.pack(body.size | flags, 0) + body.pack(*fields)


def _address(text: str) -> bytes:
    return inet_pton(AF_INET6, text if ":" in text else f"::ffff:{text}")


class Show(Protocol):
    """What `tcplife OPTIONS` writes to its standard output for these sessions.

    batch: how many of them come at once; 0: all.
    """

    def __call__(self, options: str, *sessions: Session, batch: int = 0) -> str: ...
