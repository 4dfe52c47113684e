"""The systemd journal, in its documented native protocol: a datagram an entry.

https://systemd.io/JOURNAL_NATIVE_PROTOCOL/

libsystemd's sd_journal_sendv(3), and so systemd-python, waits for ever when
journald has stopped and has 513 entries in its queue, where a datagram from here
is refused at once and counted. It takes as long an entry, 4 µs, and PyPI has
systemd-python only as C source, to be compiled with libsystemd's headers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress

from tcplife.columns import values
from tcplife.columns.text import printable
from tcplife.errors import UnavailableError
from tcplife.records.wire import STATE_CHANGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from tcplife.records.batch import Batch

    class StateChange(Protocol):
        """A TCP session's change of state, as state_change_fields() wants it."""

        @property
        def c_pid(self) -> int: ...
        @property
        def c_comm(self) -> str: ...
        @property
        def ip(self) -> int: ...
        @property
        def laddr(self) -> str: ...
        @property
        def lport(self) -> int: ...
        @property
        def raddr(self) -> str: ...
        @property
        def rport(self) -> int: ...
        @property
        def oldstate(self) -> str: ...
        @property
        def newstate(self) -> str: ...
        @property
        def span_us(self) -> int: ...


SOCKET = "/run/systemd/journal/socket"

# So that journald's queue fills before our send buffer does, which by default
# holds 167 entries. Above net.core.wmem_max only CAP_NET_ADMIN may go.
_SEND_BUFFER = 1 << 20
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h; Python has no name for it


class Journal:
    """Sends entries and never waits.

    lost: how many entries the journal did not take, because it was slow or away.
    """

    def __init__(self, path: str = SOCKET) -> None:
        """Raises UnavailableError where no journal listens."""
        import socket  # 3 ms that only --journal should pay

        self.lost = 0
        self._path = path
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
                probe.connect(path)
        except OSError as error:
            raise UnavailableError(
                f"cannot reach the systemd journal at {path}:"
                f" {error.strerror or error}; start systemd-journald (in a container,"
                " mount the host's /run/systemd/journal) or leave out -Y/--journal"
            ) from None
        # It stays unconnected: each datagram finds whoever listens at the path by
        # then, so that a journald that comes back needs no attention.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        with suppress(PermissionError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)

    def send(self, fields: Iterable[tuple[str, str]]) -> None:
        """Sends one entry, or counts it as lost."""
        try:
            self._socket.sendto(encode(fields), self._path)
        except OSError:
            self.lost += 1

    def close(self) -> None:
        """What was sent stays sent."""
        self._socket.close()


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """An entry as a datagram."""
    fields = list(fields)
    text = "".join([f"{name}={value}\n" for name, value in fields])
    if text.count("\n") == len(fields):
        return _utf8(text)
    return b"".join([_field(name, value) for name, value in fields])


def _field(name: str, value: str) -> bytes:
    if "\n" not in value:
        return _utf8(f"{name}={value}\n")
    data = _utf8(value)
    return b"%s\n%s%s\n" % (name.encode(), len(data).to_bytes(8, "little"), data)


def _utf8(text: str) -> bytes:
    # Never an error: a lone surrogate becomes an escape.
    return text.encode("utf-8", "backslashreplace")


def state_change_fields(change: StateChange) -> list[tuple[str, str]]:
    """The fields of bcc's tcpstates."""
    laddr, lport = change.laddr, str(change.lport)
    raddr, rport = change.raddr, str(change.rport)
    old, new = change.oldstate, change.newstate
    address = f"OBJECT_IPV{change.ip}"
    name = printable(change.c_comm)
    fields = [
        ("SYSLOG_IDENTIFIER", "tcpstates"),
        ("PRIORITY", "5"),
        ("OBJECT_PID", str(change.c_pid)),
        (f"{address}_SOURCE_ADDRESS", laddr),
        ("OBJECT_TCP_SOURCE_PORT", lport),
        (f"{address}_DESTINATION_ADDRESS", raddr),
        ("OBJECT_TCP_DESTINATION_PORT", rport),
        ("OBJECT_TCP_OLD_STATE", old),
        ("OBJECT_TCP_NEW_STATE", new),
        ("OBJECT_TCP_SPAN_TIME", str(change.span_us)),
        ("MESSAGE", f"{name} {laddr} {lport} → {raddr} {rport} {old} → {new}"),
    ]
    # For root, journald adds the name by the PID, and a second one, a thread's,
    # would stand beside it. It never does for PID 0, the idle task.
    if change.c_pid == 0 or os.getuid() != 0:
        fields.append(("OBJECT_COMM", change.c_comm))
    return fields


class _Change:
    """A record's fields as state_change_fields() wants them."""

    __slots__ = (
        "c_comm",
        "c_pid",
        "ip",
        "laddr",
        "lport",
        "newstate",
        "oldstate",
        "raddr",
        "rport",
        "span_us",
    )

    def __init__(
        self,
        span_us: int,
        current: bytes,
        lport: int,
        rport: int,
        states: bytes,
        laddr: bytes,
        raddr: bytes,
    ) -> None:
        self.span_us = span_us
        self.c_pid = values.task_pid(current)
        self.c_comm = values.task_comm(current)
        self.lport = lport
        self.rport = rport
        self.oldstate = values.state(states[0])
        self.newstate = values.state(states[1])
        self.ip = values.family(raddr)
        self.laddr = values.address(laddr)
        self.raddr = values.address(raddr)


class JournalSink:
    """An entry for each state change. say: tells the user of entries lost."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """Raises UnavailableError where no journal listens."""
        self._journal = Journal()
        self._say = say
        self._told = 0
        self._unpack = STATE_CHANGE.unpacker(
            ["span_us", "current", "lport", "rport", "states", "laddr", "raddr"]
        ).iter_unpack

    def write(self, batch: Batch) -> None:
        for fields in self._unpack(batch.data):
            self._journal.send(state_change_fields(_Change(*fields)))
        # A batch comes every tenth of a second at the most: tell of a first loss
        # at once, and of all in the end.
        if self._journal.lost and not self._told:
            self._tell()

    def close(self) -> None:
        if self._journal.lost > self._told:
            self._tell()
        self._journal.close()

    def _tell(self) -> None:
        self._told = self._journal.lost
        self._say(f"lost: {self._told} entries that the journal did not take")
