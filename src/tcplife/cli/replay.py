"""--replay: recordings, shown as if they were traced now."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

from tcplife.cli import host, messages
from tcplife.cli.modes import recorded_filter_from, summarizes
from tcplife.cli.progress import Progress
from tcplife.cli.summarize import View, print_lines, say_folded
from tcplife.columns.compile import Memo, each_origin
from tcplife.columns.sessions import HOST
from tcplife.errors import RecordingError
from tcplife.filters.select import compile_filter
from tcplife.pipeline.loss import LossReport
from tcplife.recording.merge import RecordingSource
from tcplife.records.batch import Batch
from tcplife.records.wire import STATE_CHANGE
from tcplife.summary import keys
from tcplife.summary.add import change_adder, session_adder
from tcplife.summary.summary import Summary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcplife.columns.column import Columns
    from tcplife.columns.styles import Layout
    from tcplife.filters.filter import Filter
    from tcplife.records.batch import Origin, Sink
    from tcplife.records.wire import Wire

    # Makes the columns and the layout, of what the recordings are.
    Shown = Callable[[Columns, RecordingSource], tuple[Columns, Layout]]


def replay(
    name: str,
    wire: Wire,
    options: argparse.Namespace,
    columns: Columns,
    shown: Shown,
    *,
    born: str,
) -> None:
    """Shows, adds up or converts recordings.

    born: the field that is the lifespan. Raises RecordingError, at the end, for what
    could not be read.
    """
    wanted = recorded_filter_from(options)
    summarizing = summarizes(options)
    replayed = RecordingSource(options.replay, wire.sender)
    columns = {**columns, "host": HOST}
    losses = LossReport(partial(messages.say, name))
    progress = Progress(replayed.total)
    pieces = _selected(replayed, wanted, born, losses, progress)
    try:
        if summarizing:
            _summarize(name, options, replayed, pieces, wire, born)
        elif options.format:
            from tcplife.export.tables import open_converter

            converter = open_converter(
                options.format,
                options.output,
                wire,
                columns,
                born,
                force=options.force,
            )
            _show(pieces, converter, options.count)
        elif replayed.files:
            columns, layout = shown(columns, replayed)
            lines = host.open_lines(options, wire, columns, layout)
            _show(pieces, lines, options.count)
    finally:
        progress.close()
        losses.finish()
    if replayed.problems:
        for problem in replayed.problems[:-1]:
            messages.say(name, problem)
        raise RecordingError(replayed.problems[-1])


def _selected(
    replayed: RecordingSource,
    wanted: Filter,
    born: str,
    losses: LossReport,
    progress: Progress,
) -> Iterator[Batch]:
    """What passes. Each recording has names of its own, and so its own filter."""
    selects = each_origin(
        lambda origin: compile_filter(replayed.wire, wanted, born, origin)
    )
    for batch in replayed.batches():
        select = selects[batch.origin]
        if select and batch.data:
            batch.data = select(batch.data)
        losses.see(batch.loss)
        progress.see(replayed.read)
        if batch.data:
            yield batch


def _show(pieces: Iterator[Batch], sink: Sink, count: int | None) -> None:
    try:
        for batch in pieces:
            if count is not None:
                batch.keep(count)
                count -= len(batch)
            sink.write(batch)
            if count == 0:
                break
    finally:
        sink.close()


def _summarize(
    name: str,
    options: argparse.Namespace,
    replayed: RecordingSource,
    pieces: Iterator[Batch],
    wire: Wire,
    born: str,
) -> None:
    states = wire.sender == STATE_CHANGE.sender
    view = View(options, states)
    by = keys.STATE_BY if states else options.by
    interval = int((options.interval or 0) * 1e9)
    folded = 0

    def show(summary: Summary, began: int, ended: int) -> int:
        summary.seconds = (ended - began) / 1e9
        print_lines(view.lines(summary, ended / 1e9, bool(interval)))
        return summary.others()

    def adders_to(summary: Summary) -> Memo:
        def adder(origin: Origin) -> Callable[[memoryview], None]:
            if states:
                return change_adder(wire, summary)
            return session_adder(wire, summary, born, origin.lookups)

        return each_origin(adder)

    began = replayed.began
    piece = Summary(by, options.max_groups)
    adders = adders_to(piece)
    for batch in pieces:
        for part, passed in _parts(batch, began, interval):
            if passed:
                # What has no sessions is not shown: a gap may be of weeks.
                if piece.groups:
                    folded += show(piece, began, began + interval)
                began += passed * interval
                piece = Summary(by, options.max_groups)
                adders = adders_to(piece)
            adders[part.origin](part.data)
    folded += show(piece, began, max(replayed.ended, began))
    say_folded(name, folded)


def _parts(batch: Batch, began: int, interval: int) -> Iterator[tuple[Batch, int]]:
    """A batch by intervals: its parts, and how many intervals have passed before."""
    if not interval:
        yield batch, 0
        return
    wire, offset, stride = batch.wire, batch.wall_offset, batch.wire.stride
    times = [
        ns + offset for (ns,) in wire.unpacker(["time_ns"]).iter_unpack(batch.data)
    ]
    start = 0
    while start < len(times):
        # A record that had to wait is of the interval in which it came.
        passed = max((times[start] - began) // interval, 0)
        began += passed * interval
        end = began + interval
        stop = next(
            (n for n in range(start, len(times)) if times[n] >= end), len(times)
        )
        data = batch.data[start * stride : stop * stride]
        yield Batch(wire, data, offset, batch.loss, batch.origin), passed
        start = stop
