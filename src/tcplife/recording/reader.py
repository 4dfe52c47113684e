"""Reads recordings: batches again, as they came from the kernel."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator

from tcplife.errors import RecordingError, UsageError
from tcplife.recording import container
from tcplife.recording.container import Damaged, Planes
from tcplife.records.batch import Batch, Loss, Origin
from tcplife.records.wire import STATE_CHANGE, STORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tcplife.records.wire import Wire

WIRES = {wire.sender: wire for wire in (STORY, STATE_CHANGE)}
# How much is read at once.
_PIECE = 1 << 18
# How many names are remembered, of each kind.
_NAMES = 65536
_NAME_LENGTH = 1024
_CODE = re.compile(r"[0-9]{0,3}[BHIQs]")


class Blocks:
    """The whole blocks of a file, and where there is something else."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._buffer = bytearray()
        # Where in the file the buffer begins.
        self.offset = 0
        # Where something was left out, the first time, and how often.
        self.first_damage: int | None = None
        self.damages = 0
        self.cut = False

    def take(self, count: int) -> bytes:
        """The next bytes; fewer at the end."""
        self._need(count)
        taken = bytes(self._buffer[:count])
        self._drop(count)
        return taken

    def damaged(self, offset: int) -> None:
        if self.first_damage is None:
            self.first_damage = offset
        self.damages += 1

    def __iter__(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Each block's place, number, kind and what it holds."""
        while self._need(container.HEAD_BYTES):
            start = self.offset
            head = container.parse_head(self._buffer)
            if head is None:
                self.damaged(start)
                self._seek_mark()
                continue
            length = container.HEAD_BYTES + head.stored
            if not self._need(length):
                self.cut = True
                return
            stored = bytes(self._buffer[container.HEAD_BYTES : length])
            self._drop(length)
            try:
                raw = container.unpack_block(head, stored)
            except Damaged:
                self.damaged(start)
                continue
            yield start, head.number, head.kind, raw
        self.cut = bool(self._buffer)

    def _seek_mark(self) -> None:
        """To the next bytes that may begin a block, or to the end."""
        self._drop(1)
        while (found := self._buffer.find(container.MARK)) < 0:
            self._drop(max(len(self._buffer) - len(container.MARK) + 1, 0))
            if not self._need(len(self._buffer) + 1):
                self._drop(len(self._buffer))
                return
        self._drop(found)

    def _need(self, count: int) -> bool:
        while len(self._buffer) < count:
            data = self._read(_PIECE)
            if not data:
                return False
            self._buffer += data
        return True

    def _drop(self, count: int) -> None:
        count = min(count, len(self._buffer))
        del self._buffer[:count]
        self.offset += count


class Recording:
    """A recording that is read once, from its begin to its end.

    told: its header. began, ended: nanoseconds since 1970, of the recording; `ended`
    of what was read so far.
    """

    def __init__(self, name: str, read: Callable[[int], bytes]) -> None:
        """Raises RecordingError if nothing of it can be read."""
        self.name = name
        self.loss = Loss()
        self.records = 0
        self._blocks = Blocks(read)
        self._ends = 0
        self._names: dict[str, dict[int, str]] = {"cgroup": {}, "uid": {}}
        begin = self._blocks.take(container.PREAMBLE_BYTES)
        version = container.version_of(begin)
        if version is None:
            what = "empty" if not begin else "no recording of tcplife or tcpstates"
            raise RecordingError(f"{name}: {what}")
        if version != container.VERSION:
            raise RecordingError(
                f"{name}: a recording of format {version}, and this tcplife reads"
                f" {container.VERSION}: replay it with a newer one"
            )
        self._iterator = iter(self._blocks)
        _, number, kind, raw = next(self._iterator, (0, -1, 0, b""))
        if (number, kind) != (0, container.HEADER):
            raise RecordingError(
                f"{name}: its header is damaged or cut short: without it nothing can"
                " be read"
            )
        try:
            self.told = _parsed(raw)
            self._read_header()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordingError(
                f"{name}: a header that this tcplife does not understand: {error}"
            ) from None

    def _read_header(self) -> None:
        told = self.told
        records = told["records"]
        sender = str(records["sender"])
        if sender not in WIRES:
            raise ValueError(f"records of {sender!r}")
        if told["byte_order"] != sys.byteorder:
            raise ValueError(f"byte order {told['byte_order']!r}")
        fields = [(str(name), str(code)) for name, code in records["fields"]]
        if len(fields) > 256 or not all(_CODE.fullmatch(code) for _, code in fields):
            raise ValueError("formats of fields")
        self.wire: Wire = WIRES[sender]
        self._planes = Planes(self.wire, fields)
        self._time = self.wire.unpacker(["time_ns"])
        self.host = str(told["host"])[:255]
        self.scope = str(told["scope"])
        self.trace = str(told["trace"])
        self.began = self.ended = _time_of(told)
        lookups = {
            "cgroup_path": self.cgroup_path,
            "user_name": self.user_name,
            "host": lambda _: self.host,
        }
        self.origin = Origin(lookups, self.host, self._planes.missing)

    def cgroup_path(self, number: int) -> str | None:
        return self._names["cgroup"].get(number)

    def user_name(self, uid: int | None) -> str | None:
        return None if uid is None else self._names["uid"].get(uid, str(uid))

    @property
    def position(self) -> int:
        """How many bytes of it have been read."""
        return self._blocks.offset

    def batches(self) -> Iterator[Batch]:
        """Its records. One without records tells of a loss."""
        last = 0
        for start, number, kind, raw in self._iterator:
            # A block that is there twice, or once more behind the end.
            if number <= last or self._ends:
                self._blocks.damaged(start)
                continue
            if number != last + 1 and not self._blocks.damages:
                self._blocks.damaged(start)
            last = number
            try:
                if kind == container.RECORDS:
                    yield self._batch(raw)
                elif kind == container.NAMES:
                    self._learn(_parsed(raw))
                elif kind == container.END:
                    self.ended = max(self.ended, _time_of(_parsed(raw)))
                    self._ends += 1
                # Kinds that a newer version may have are for that.
            except (Damaged, ValueError, KeyError, TypeError, AttributeError):
                self._blocks.damaged(start)

    def problem(self) -> str | None:
        """What could not be read, once all that can be is."""
        parts = []
        blocks = self._blocks
        if blocks.first_damage is not None:
            places = "place" if blocks.damages == 1 else "places"
            parts.append(
                f"{blocks.damages} damaged {places}, at byte {blocks.first_damage}"
                f"{'' if blocks.damages == 1 else ' and further on'}, left out"
            )
        if self._ends and blocks.cut:
            parts.append("bytes behind its end, left out")
        if not self._ends:
            parts.append(f"cut short after {self.records} whole records")
        return f"{self.name}: {'; '.join(parts)}" if parts else None

    def _batch(self, raw: bytes) -> Batch:
        found = self._planes.unpack(raw)
        self.records += found.count
        loss = self.loss
        if repr(found.loss) != repr(loss):
            loss = self.loss = found.loss
        if found.count:
            at = (found.count - 1) * self.wire.stride
            last = self._time.unpack_from(found.data, at)[0] + found.wall_offset
            self.ended = max(self.ended, last)
        data = memoryview(found.data)
        return Batch(self.wire, data, found.wall_offset, loss, self.origin)

    def _learn(self, told: dict[str, Any]) -> None:
        for kind, names in self._names.items():
            for number, name in told.get(kind, {}).items():
                if len(names) >= _NAMES:  # the oldest go, as dict keeps the order
                    del names[next(iter(names))]
                names[int(number)] = str(name)[:_NAME_LENGTH]


def open_recording(path: str, named: str = "--replay ") -> tuple[Recording, int]:
    """A recording and its length in bytes, 0 if that cannot be known; `-` is standard
    input. Raises UsageError if it cannot be opened, RecordingError."""
    if path == "-":
        if os.isatty(0):
            raise UsageError(
                f"{named}-: standard input is a terminal; pipe a recording into it"
            )
        return Recording("standard input", _reader(path, 0)), 0
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if os.path.isdir(path):
            os.close(fd)
            raise UsageError(f"{named}{path}: it is a directory; give the files in it")
    except OSError as error:
        raise UsageError(f"{named}{path}: {error.strerror}") from None
    size = os.fstat(fd).st_size
    return Recording(path, _Closing(_reader(path, fd), fd)), size


class _Closing:
    """Reads, and closes the descriptor at the end."""

    def __init__(self, read: Callable[[int], bytes], fd: int) -> None:
        self._read = read
        self._fd: int | None = fd

    def __call__(self, count: int) -> bytes:
        data = self._read(count) if self._fd is not None else b""
        if not data:
            self.close()
        return data

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __del__(self) -> None:
        self.close()


def _reader(path: str, fd: int) -> Callable[[int], bytes]:
    def read(count: int) -> bytes:
        try:
            return os.read(fd, count)
        except OSError as error:
            raise RecordingError(f"{path}: {error.strerror}") from None

    return read


def _parsed(raw: bytes) -> dict[str, Any]:
    """A JSON object. Raises ValueError for anything else."""
    try:
        told = json.loads(raw, parse_int=_whole)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(told, dict):
        raise ValueError("no object")
    return told


def _whole(text: str) -> int:
    # The time that int() takes grows with the square of the length.
    if len(text) > 20:
        raise ValueError("a number too long")
    return int(text)


def _time_of(told: dict[str, Any]) -> int:
    moment = told["clocks"]["realtime"]
    if not isinstance(moment, int) or not 0 <= moment < 1 << 63:
        raise ValueError("its time")
    return moment
