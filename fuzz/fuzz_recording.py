"""Fuzzes the reader of recordings, guided by coverage (atheris).

python fuzz/fuzz_recording.py [libFuzzer's options] fuzz/corpus

An input is read as it is and, because checksums would stop most of it there, once
more with all of them put right. What is read is shown in every format. Each input
has to end within -timeout, within -rss_limit_mb, and without an error but ours.
"""

from __future__ import annotations

import struct
import sys
import tempfile
import zlib
from collections.abc import Callable

import atheris

with atheris.instrument_imports(include=["tcplife.recording", "tcplife.export"]):
    from tcplife.columns import styles
    from tcplife.columns.compile import compile_json, compile_rows
    from tcplife.columns.objects import compile_records, compile_tuples
    from tcplife.columns.sessions import HOST, SESSION_COLUMNS
    from tcplife.columns.states import STATE_COLUMNS
    from tcplife.errors import RecordingError
    from tcplife.filters.filter import Filter
    from tcplife.filters.select import compile_filter
    from tcplife.recording import container
    from tcplife.recording.merge import RecordingSource
    from tcplife.recording.reader import Recording
    from tcplife.records.batch import Batch
    from tcplife.records.session import Session, StateChange
    from tcplife.records.wire import STORY
    from tcplife.summary.add import change_adder, session_adder
    from tcplife.summary.keys import STATE_BY
    from tcplife.summary.summary import Summary

WANTED = Filter(
    remote_ports=[(1, 60000)],
    uids=[0],
    users=["root"],
    cgroup="/system.slice",
    local_subnets=[(bytes(16), 1)],
    ends=range(9),
)
# What a file may unpack to: that it is more takes a longer one.
MOST = 64


def repaired(data: bytes) -> bytes:
    """The same, with the checksums of all blocks put right, and packed anew."""
    out = bytearray(container.preamble())
    at = container.PREAMBLE_BYTES
    number = 0
    while at + container.HEAD_BYTES <= len(data) and number < MOST:
        kind, packing = data[at + 4], data[at + 5] & 1
        (stored,) = struct.unpack_from("<I", data, at + 12)
        at += container.HEAD_BYTES
        body = data[at : at + min(stored, 1 << 16)]
        at += len(body)
        if packing:
            # As far as it can be unpacked.
            unpacking = zlib.decompressobj()
            try:
                body = unpacking.decompress(body, container.MAX_RAW)
            except zlib.error:
                packing = 0
        out += container.pack_block(kind, number, body, packed=bool(packing))
        number += 1
    return bytes(out)


def show(data: bytes) -> None:
    """As --replay does, in one of all formats: which one, the input decides."""
    rest = [data]
    try:
        recording = Recording("fuzzed", lambda _: rest.pop() if rest else b"")
    except RecordingError:
        return
    use = user(recording, zlib.crc32(data) % 6)
    for batch in recording.batches():
        # All records are treated alike, and these are of the same bytes.
        batch.keep(16)
        if batch.data:
            use(batch)
    recording.problem()


def user(recording: Recording, number: int) -> Callable[[Batch], object]:
    wire, lookups = recording.wire, recording.origin.lookups
    story = wire is STORY
    columns = {**(SESSION_COLUMNS if story else STATE_COLUMNS), "host": HOST}
    born = "span_us" if story else ""
    if number == 0:
        layout = styles.STATES_WIDE
        if story:
            names = [name for name, column in columns.items() if column.key]
            layout = styles.chosen(columns, names, wide=False, csv=True, born=born)
        rows = compile_rows(wire, columns, layout, True, True, lookups)
        return lambda batch: rows(batch.data, batch.wall_offset, 0).encode()
    if number == 1:
        json = compile_json(wire, columns, born, lookups)
        return lambda batch: json(batch.data, batch.wall_offset, 0).encode()
    if number == 2:
        kind = Session if story else StateChange
        objects = compile_records(wire, columns, kind, born, lookups)
        return lambda batch: objects(batch.data, batch.wall_offset)
    if number == 3:
        tuples = compile_tuples(wire, columns, born, lookups)
        return lambda batch: tuples(batch.data, batch.wall_offset)
    if number == 4:
        by = ("comm", "host", "cgroup", "user") if story else STATE_BY
        summary = Summary(by, 64)
        if story:
            add = session_adder(wire, summary, born, lookups)
        else:
            add = change_adder(wire, summary)
        return lambda batch: add(batch.data)
    wanted = WANTED if story else Filter(family=4)
    select = compile_filter(wire, wanted, born, recording.origin)
    return lambda batch: select(batch.data) if select else None


def merge(data: bytes) -> None:
    """Two copies at once, as files of two hosts would be."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        replayed = RecordingSource([file.name, file.name], STORY.sender)
        for number, _ in enumerate(replayed.batches()):
            if number > MOST:
                break


COUNT = 0


def one_input(data: bytes) -> None:
    global COUNT
    COUNT += 1
    show(data)
    fixed = repaired(data)
    show(fixed)
    if COUNT % 64 == 0:
        merge(fixed)


def main() -> None:
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
