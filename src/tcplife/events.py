"""The kernel's records: what they hold, and how to unpack them in bulk.

A record is what `struct session_event` in bpf/session.h says, in the frame that
the kernel's ring buffer puts around it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from tcplife import layout

# kernel/bpf/ringbuf.c, struct bpf_ringbuf_hdr: a length, of which two bits are
# flags, and a page offset that means nothing to us.
FRAME = struct.Struct("=II")
FIELDS = dict(layout.SESSION_EVENT)
OWNER = struct.Struct("=" + "".join(code for _, code in layout.OWNER))


def unpacker(wanted: Iterable[str]) -> struct.Struct:
    """Unpacks the wanted fields of a framed record, in the record's order."""
    wanted = set(wanted)
    codes = [
        code if name in wanted else f"{struct.calcsize('=' + code)}x"
        for name, code in FIELDS.items()
    ]
    return struct.Struct(f"={FRAME.size}x" + "".join(codes))


# How many bytes a framed record takes.
STRIDE = unpacker(()).size


class Loss:
    """What could not be told, since tracing began.

    events: sessions that ended while the ring buffer was full.
    sessions: sessions that began when there was no memory to follow them.
    unresolved: sessions that ended, but could not be shown in the end.
    """

    __slots__ = ("events", "sessions", "unresolved")

    def __init__(self, events: int = 0, sessions: int = 0, unresolved: int = 0) -> None:
        self.events = events
        self.sessions = sessions
        self.unresolved = unresolved

    def total(self) -> int:
        return self.events + self.sessions + self.unresolved


class Batch:
    """Framed records in the order in which they were sent, and what was lost.

    data: is valid until the next batch is asked for.
    wall_offset: nanoseconds from CLOCK_MONOTONIC, the records' clock, to
        CLOCK_REALTIME, as it was when the batch was read.
    """

    __slots__ = ("data", "loss", "wall_offset")

    def __init__(self, data: memoryview, wall_offset: int, loss: Loss) -> None:
        self.data = data
        self.wall_offset = wall_offset
        self.loss = loss

    def __len__(self) -> int:
        return len(self.data) // STRIDE

    def keep(self, count: int) -> None:
        """Drops all but the first records."""
        self.data = self.data[: count * STRIDE]


def split_owner(owner: bytes) -> tuple[int | None, bytes]:
    """The PID (None where the owner isn't known) and the process's name."""
    pid, comm = OWNER.unpack(owner)
    return pid or None, comm.split(b"\0", 1)[0]
