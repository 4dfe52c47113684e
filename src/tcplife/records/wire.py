"""The kernel's records: what they hold, and how to unpack them in bulk.

A record is what a struct in bpf/*.h says, in the frame that the kernel's ring
buffer puts around it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from tcplife.records import abi

# kernel/bpf/ringbuf.c, struct bpf_ringbuf_hdr: a length, of which two bits are
# flags, and a page offset that means nothing to us.
FRAME = struct.Struct("=II")
OWNER = struct.Struct("=" + "".join(code for _, code in abi.OWNER))


class Wire:
    """A kind of record: who sends it; its fields' formats, by name; its size with
    the frame."""

    __slots__ = ("fields", "sender", "stride")

    def __init__(self, sender: str, fields: Iterable[tuple[str, str]]) -> None:
        self.sender = sender
        self.fields = dict(fields)
        self.stride = self.unpacker(()).size

    def unpacker(self, wanted: Iterable[str]) -> struct.Struct:
        """Unpacks the wanted fields of a framed record, in the record's order."""
        wanted = set(wanted)
        codes = [
            code if name in wanted else f"{struct.calcsize('=' + code)}x"
            for name, code in self.fields.items()
        ]
        return struct.Struct(f"={FRAME.size}x" + "".join(codes))


SESSION = Wire("tcplife", abi.SESSION_EVENT)
STORY = Wire("tcplife_full", (*abi.SESSION_EVENT, *abi.STORY))
STATE_CHANGE = Wire("tcpstates", abi.STATE_EVENT)


def split_owner(owner: bytes) -> tuple[int, bytes]:
    """The PID (0 where the owner isn't known) and the process's name."""
    pid, comm = OWNER.unpack(owner)
    return pid, comm.split(b"\0", 1)[0]
