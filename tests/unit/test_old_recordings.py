"""Recordings of version 1, read by a tcplife whose records have grown since."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tcplife.columns.column import Column
from tcplife.columns.objects import compile_tuples
from tcplife.columns.sessions import SESSION_COLUMNS
from tcplife.columns.styles import LIFE_NARROW, chosen, known
from tcplife.filters.filter import Filter
from tcplife.filters.select import _CONDITIONS, compile_filter
from tcplife.recording import container, reader
from tcplife.recording.merge import RecordingSource
from tcplife.records.batch import NOWHERE, Origin
from tcplife.records.wire import STORY, Wire
from tcplife.sinks.lines import json_lines, table

# Made by the version of 2026-11-21, and committed: it must stay readable for ever.
SESSIONS = Path(__file__).parents[1] / "golden/sessions.tcplife"
ROWS = 72
CWND = Column(
    title="CWND",
    key="cwnd",
    unit="segments",
    meaning="congestion window",
    of="cwnd",
    memo="False",
    form="%5d",
)
COLUMNS = {**SESSION_COLUMNS, "cwnd": CWND}


def grown(**changed: str) -> Wire:
    """Records with these fields besides, or with other formats."""
    return Wire(STORY.sender, {**STORY.fields, **changed}.items())


def replay(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> RecordingSource:
    monkeypatch.setitem(reader.WIRES, STORY.sender, wire)
    return RecordingSource([str(SESSIONS)], STORY.sender)


def test_a_field_that_was_added_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = grown(cwnd="I")
    found: list[tuple[object, ...]] = []
    for batch in replay(wire, monkeypatch).batches():
        assert batch.origin.missing == {"cwnd"}
        columns = known(wire, COLUMNS, batch.origin.missing)
        decode = compile_tuples(wire, columns, "span_us", batch.origin.lookups)
        found += decode(batch.data, batch.wall_offset)
    assert len(found) == ROWS
    assert {row[-1] for row in found} == {None}
    keys = [column.key for column in COLUMNS.values() if column.key]
    assert all(row[keys.index("laddr")] for row in found)


def test_it_is_a_dash_in_a_table_and_null_in_json(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = grown(cwnd="I")
    layout = chosen(
        COLUMNS, ["lport", "cwnd", "rport"], wide=False, csv=False, born="span_us"
    )
    fd = os.memfd_create("rows")
    rows = table(fd, wire, COLUMNS, layout, time=False, elapsed=False)
    objects = json_lines(fd, wire, COLUMNS, LIFE_NARROW)
    for sink in (rows, objects):
        for batch in replay(wire, monkeypatch).batches():
            if batch.data:
                sink.write(batch)
    text = os.pread(fd, os.fstat(fd).st_size, 0).decode().splitlines()
    os.close(fd)
    assert len(text) == 1 + 2 * ROWS
    assert text[1].split()[1] == "-"
    assert text[1].index("-") == text[0].index("CWND") + 3
    assert text[-1].endswith('"cwnd": null}')


def test_a_filter_on_it_passes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = grown(cwnd="I")
    condition = ("cwnd >= at_least", {"at_least": lambda *_: 0})
    monkeypatch.setitem(_CONDITIONS, "min_bytes", condition)
    wanted = Filter(min_bytes=1)
    old = Origin({}, missing=frozenset(["cwnd"]))
    for batch in replay(wire, monkeypatch).batches():
        if batch.data:
            for origin, passing in ((old, 0), (NOWHERE, len(batch))):
                select = compile_filter(wire, wanted, "span_us", origin)
                assert select
                assert len(select(batch.data)) == passing * wire.stride


def test_a_field_that_was_widened_keeps_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide = grown(mss="Q")
    values = []
    for wire in (STORY, wide):
        unpack = wire.unpacker(["mss", "segs_out"]).iter_unpack
        batches = replay(wire, monkeypatch).batches()
        values.append([row for batch in batches for row in unpack(batch.data)])
    assert len(values[0]) == ROWS
    assert values[0] == values[1]
    assert len({mss for mss, _ in values[0]}) > 1


@pytest.mark.parametrize("wire", reader.WIRES.values(), ids=lambda wire: wire.sender)
def test_the_first_versions_fields_are_still_there(wire: Wire) -> None:
    """Fields are never taken away, nor renamed."""
    assert container.FIRST_VERSION[wire.sender] <= set(wire.fields)
