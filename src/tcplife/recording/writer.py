"""Writes recordings. A sink of its own kind: it is called when nothing came, too."""

from __future__ import annotations

import os
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from tcplife.columns.values import user_name
from tcplife.errors import OutputClosed, OutputError
from tcplife.fileio import write_all
from tcplife.recording import container
from tcplife.records.batch import NOWHERE, Loss, Origin
from tcplife.records.wire import FRAME, Wire
from tcplife.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tcplife.records.batch import Batch

# Records in a block: more make it hardly smaller.
BLOCK = 4096
# How long a record waits for its block, in seconds. The rest, up to a second, is for
# the interval in which the kernel's ring buffer is read.
PATIENCE = 0.8
# What the end of a file takes.
_END_ROOM = 512

# Gives the next file: its descriptor, and its name; standard output has none.
Open = Callable[[], tuple[int, str]]


def header(wire: Wire, tool: str, command: Sequence[str], scope: str) -> dict[str, Any]:
    """What a recording says of itself, but for what each of its files has."""
    host = os.uname()
    return {
        "tool": tool,
        "version": __version__,
        "command": [word[:1024] for word in command[:256]],
        "kernel": host.release,
        "machine": host.machine,
        "host": host.nodename,
        "boot_id": _boot_id(),
        "byte_order": sys.byteorder,
        "trace": os.urandom(8).hex(),
        "scope": scope,
        "records": {"sender": wire.sender, "fields": list(wire.fields.items())},
    }


def _boot_id() -> str | None:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


def _clocks() -> dict[str, int]:
    """Nanoseconds, of clocks read at once, or nearly so."""
    return {
        "realtime": time.time_ns(),
        "monotonic": time.clock_gettime_ns(time.CLOCK_MONOTONIC),
        "boottime": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    }


class Writer:
    """Writes batches to a file, or to one after the other.

    told: see header(). open_next: gives the files. max_bytes, max_seconds: from when
    on it takes the next one.
    """

    def __init__(
        self,
        wire: Wire,
        told: dict[str, Any],
        open_next: Open,
        *,
        max_bytes: int | None = None,
        max_seconds: float | None = None,
    ) -> None:
        self._wire = wire
        self._told = told
        self._open_next = open_next
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._names = _Names(wire)
        self._frames = bytearray(BLOCK * wire.stride)
        self._view = memoryview(self._frames)
        self._filled = 0
        self._since = 0.0
        self._wall_offset = 0
        self._origin = NOWHERE
        self._loss = self._loss_written = Loss()
        self._part = 0
        self._records = 0
        self._largest = 0
        self._failed = False
        self._open()

    def write(self, batch: Batch) -> None:
        """Takes a batch, also one without records. Raises OutputError."""
        data = batch.data
        if batch.wall_offset != self._wall_offset:
            self._flush()
            self._wall_offset = batch.wall_offset
        self._loss = batch.loss
        self._origin = batch.origin
        now = time.monotonic()
        if data and not self._filled:
            self._since = now
        while data:
            piece = data[: len(self._frames) - self._filled]
            self._view[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            data = data[len(piece) :]
            if self._filled == len(self._frames):
                self._flush()
                self._since = now
        if self._has_lost() or (self._filled and now - self._since >= PATIENCE):
            self._flush()
        if self._max_seconds is not None and now - self._opened >= self._max_seconds:
            self._flush()
            self._next_file()

    def close(self) -> None:
        """Writes what it holds, and the mark of a whole recording."""
        try:
            if not self._failed:
                self._flush()
                self._end(last=True)
        finally:
            if not self._failed:
                os.close(self._fd)

    def _open(self) -> None:
        self._fd, self._name = self._open_next()
        self._opened = time.monotonic()
        # Standard output may be a file that has more than this recording.
        mode = os.fstat(self._fd).st_mode
        self._regular = bool(self._name) and stat.S_ISREG(mode)
        if self._regular:
            os.ftruncate(self._fd, 0)
        self._number = 0
        self._whole = 0
        self._records = 0
        self._names.forget()
        told = {**self._told, "part": self._part, "clocks": _clocks()}
        block = self._block(container.HEADER, _json(told), packed=False)
        self._put(container.preamble() + block)

    def _next_file(self) -> None:
        self._end(last=False)
        os.close(self._fd)
        self._part += 1
        try:
            self._open()
        except OutputError:
            self._failed = True
            raise

    def _end(self, last: bool) -> None:
        told = {"records": self._records, "last": last, "clocks": _clocks()}
        self._put(self._block(container.END, _json(told)))

    def _flush(self) -> None:
        if not self._filled and not self._has_lost():
            return
        # Larger ones than before may follow, but by little.
        likely = self._whole + self._largest + _END_ROOM
        if self._max_bytes is not None and self._records and likely > self._max_bytes:
            self._next_file()
        names = self._names.new(self._view[: self._filled], self._origin)
        blocks = [self._block(container.NAMES, _json(names))] if names else []
        raw = container.pack_records(
            self._wire, self._frames, self._filled, self._wall_offset, self._loss
        )
        blocks.append(self._block(container.RECORDS, raw))
        data = b"".join(blocks)
        self._put(data)
        self._largest = max(self._largest, len(data))
        self._records += self._filled // self._wire.stride
        self._filled = 0
        self._loss_written = self._loss

    def _has_lost(self) -> bool:
        """Whether there are losses that are not in a block yet."""
        return self._loss.total() != self._loss_written.total()

    def _block(self, kind: int, raw: bytes, *, packed: bool = True) -> bytes:
        block = container.pack_block(kind, self._number, raw, packed=packed)
        self._number += 1
        return block

    def _put(self, data: bytes) -> None:
        """With one write, so that a reader finds whole blocks."""
        try:
            write_all(self._fd, data)
        except OutputError as error:
            self._failed = True
            if self._regular:
                # What of a block found room is of no use to anyone.
                os.ftruncate(self._fd, self._whole)
            os.close(self._fd)
            if isinstance(error, OutputClosed):
                raise
            reason = str(error).partition(": ")[2]
            raise OutputError(
                f"cannot write the recording {self._name or 'on standard output'}:"
                f" {reason}; what is there already can be replayed"
            ) from None
        self._whole += len(data)


class _Names:
    """Names that only the traced host knows, of what is seen for the first time."""

    # How many numbers are remembered as told; then all are told anew.
    LIMIT = 65536

    def __init__(self, wire: Wire) -> None:
        self._stride = wire.stride
        self._columns: list[tuple[str, Any, int, int]] = []
        place = FRAME.size
        for name, code in wire.fields.items():
            size = struct.calcsize("=" + code)
            if name in ("cgroup", "uid"):
                self._columns.append((name, code, place // size, wire.stride // size))
            place += size
        self._seen: dict[str, set[int]] = {}
        self.forget()

    def forget(self) -> None:
        self._seen = {"cgroup": set(), "uid": set()}

    def new(self, frames: memoryview, origin: Origin) -> dict[str, dict[int, str]]:
        found: dict[str, dict[int, str]] = {}
        for name, code, first, step in self._columns:
            # Records are aligned, so that a field is every so many-th number.
            numbers = set(frames.cast(code)[first::step].tolist()) - self._seen[name]
            if not numbers:
                continue
            if len(self._seen[name]) > self.LIMIT:
                self._seen[name].clear()
            self._seen[name] |= numbers
            named = self._named(name, numbers, origin)
            if named:
                found[name] = named
        return found

    def _named(
        self, name: str, numbers: Iterable[int], origin: Origin
    ) -> dict[int, str]:
        if name == "cgroup":
            path = origin.lookups["cgroup_path"]
            paths = ((number, path(number)) for number in numbers)
            return {number: path for number, path in paths if path is not None}
        names = ((number, user_name(number)) for number in numbers)
        # A number without a name is shown as it is.
        return {uid: name for uid, name in names if name and name != str(uid)}


def _json(told: object) -> bytes:
    import json

    return json.dumps(told).encode()
