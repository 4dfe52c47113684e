"""Records as a program sees them: sessions, and changes of state."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Direction = Literal["in", "out"]
End = Literal[
    "open",
    "closed",
    "reset-by-peer",
    "reset-by-us",
    "refused",
    "unreachable",
    "timeout",
    "given-up",
    "destroyed",
]
Closer = Literal["local", "remote", "both"]
Born = Literal["traced", "before-trace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A TCP session, as one end of it is seen; `tcplife --columns help` has the
    meaning of each field, docs/fields.md how exact it is.

    Fields that may be None are so where it isn't known, or doesn't apply. Addresses
    are as inet_ntop(3) writes them, IPv4 mapped into IPv6 as IPv4.
    """

    time: datetime
    pid: int | None = None
    comm: str | None = None
    ip: Literal[4, 6] = 4
    laddr: str = "127.0.0.1"
    lport: int = 0
    raddr: str = "127.0.0.1"
    rport: int = 0
    tx_bytes: int = 0
    rx_bytes: int = 0
    ms: float = 0.0
    dir: Direction | None = None
    end: End = "closed"
    first: Closer | None = None
    errno: str | None = None
    connect_ms: float | None = None
    open_ms: float = 0.0
    close_ms: float = 0.0
    rtt_ms: float | None = None
    min_rtt_ms: float | None = None
    retrans: int = 0
    retrans_bytes: int = 0
    lost_bytes: int = 0
    unread_bytes: int = 0
    mss: int = 0
    segs_in: int = 0
    segs_out: int = 0
    tx_rate: int | None = None
    rx_rate: int | None = None
    cc: str | None = None
    uid: int | None = None
    user: str | None = None
    ppid: int | None = None
    netns: int = 0
    cgroup: str | None = None
    container: str | None = None
    pod: str | None = None
    born: Born = "traced"
    # Of what is replayed only.
    host: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """A change of a TCP socket's state. ms: in `oldstate`; None if its beginning
    was not seen. The names of states are those of include/net/tcp_states.h."""

    time: datetime
    skaddr: int
    c_pid: int = 0
    c_comm: str = ""
    pid: int | None = None
    comm: str | None = None
    ip: Literal[4, 6] = 4
    laddr: str = "127.0.0.1"
    lport: int = 0
    raddr: str = "127.0.0.1"
    rport: int = 0
    oldstate: str
    newstate: str
    ms: float | None = None
    host: str | None = None
