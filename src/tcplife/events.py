"""The kernel's records, decoded in bulk.

A record is what `struct session_event` in bpf/session.h says, in the frame that
the kernel's ring buffer puts around it. A `Record` is that, unpacked and no
more: turning its fields into text is the columns' work, for those that are shown.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from tcplife import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    # At run time, typing would cost each start of a command 4 ms; records are
    # written out as classes for the same reason.
    from typing import Any

    Record = tuple[Any, ...]

# kernel/bpf/ringbuf.c, struct bpf_ringbuf_hdr: a length, of which two bits are
# flags, and a page offset that means nothing to us.
FRAME = struct.Struct("=II")

FIELDS = tuple(name for name, _ in layout.SESSION_EVENT)
END_NS = FIELDS.index("end_ns")
SESSION = struct.Struct(
    f"={FRAME.size}x" + "".join(code for _, code in layout.SESSION_EVENT)
)
OWNER = struct.Struct("=" + "".join(code for _, code in layout.OWNER))


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
    """Records in the order in which they were sent, and what was lost so far.

    wall_offset: nanoseconds from CLOCK_MONOTONIC, the records' clock, to
    CLOCK_REALTIME, as it was when the batch was read.
    """

    __slots__ = ("loss", "records", "wall_offset")

    def __init__(self, records: Sequence[Record], wall_offset: int, loss: Loss) -> None:
        self.records = records
        self.wall_offset = wall_offset
        self.loss = loss


def decode(data: memoryview | bytes) -> list[Record]:
    """The records in `data`, which holds a whole number of frames."""
    return list(SESSION.iter_unpack(data))


def split_owner(owner: bytes) -> tuple[int | None, bytes]:
    """The PID (None where the owner isn't known) and the process's name."""
    pid, comm = OWNER.unpack(owner)
    return pid or None, comm.split(b"\0", 1)[0]
