"""Recordings as tests make them: from sessions, with the real writer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tcplife.recording.files import One
from tcplife.recording.reader import Recording
from tcplife.recording.writer import Writer, header
from tcplife.records.batch import Batch, Loss, Origin
from tcplife.records.wire import STORY, Wire

from .records import CGROUPS, WALL_OFFSET, Session, pack

LOOKUPS: dict[str, Callable[[Any], Any]] = {"cgroup_path": CGROUPS.get}


def batch(
    *sessions: Session,
    wire: Wire = STORY,
    offset: int = WALL_OFFSET,
    loss: Loss | None = None,
) -> Batch:
    data = pack(*sessions, wire=wire)
    return Batch(wire, data, offset, loss or Loss(), Origin(LOOKUPS))


def told(host: str = "here", scope: str = "new", wire: Wire = STORY) -> dict[str, Any]:
    return {**header(wire, "tcplife", ["--record", "x"], scope), "host": host}


def record(
    path: Path, batches: Iterable[Batch], header: dict[str, Any] | None = None
) -> Path:
    """A recording of these."""
    given = list(batches)
    wire = given[0].wire if given else STORY
    writer = Writer(wire, header or told(wire=wire), One(str(path)).next)
    for each in given:
        writer.write(each)
    writer.close()
    return path


def opened(data: bytes) -> Recording:
    """Read a piece at a time, as from a slow pipe."""
    rest = [data[at : at + 1000] for at in range(0, len(data), 1000)][::-1]
    return Recording("it", lambda _: rest.pop() if rest else b"")


def replayed(data: bytes) -> tuple[list[tuple[int, bytes]], Recording]:
    """All records, each with its wall_offset; and the recording, read to its end."""
    recording = opened(data)
    stride = recording.wire.stride
    found = []
    for each in recording.batches():
        for at in range(0, len(each.data), stride):
            found.append((each.wall_offset, bytes(each.data[at : at + stride])))
    return found, recording


def frames(batches: Iterable[Batch]) -> list[tuple[int, bytes]]:
    stride = STORY.stride
    return [
        (each.wall_offset, bytes(each.data[at : at + stride]))
        for each in batches
        for at in range(0, len(each.data), stride)
    ]
