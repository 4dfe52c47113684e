"""--summary and --hist: figures of many sessions, instead of a row for each."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from tcplife.cli import host, messages
from tcplife.cli.modes import filter_from
from tcplife.columns.values import rfc3339
from tcplife.errors import UsageError
from tcplife.fileio import write_all
from tcplife.pipeline.loop import Stop
from tcplife.pipeline.loss import LossReport
from tcplife.summary import keys, render
from tcplife.summary.add import change_adder, session_adder
from tcplife.summary.summary import Summary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcplife.cli.live import Live
    from tcplife.kernel.source import KernelSource
    from tcplife.records.wire import Wire

# Of sessions, without being asked for a histogram of something else.
TABLE = ("ms", "connect", "tx", "rx")


class View:
    """What the options want to see of a summary."""

    def __init__(self, options: argparse.Namespace, states: bool) -> None:
        self.states = states
        self.json = options.json
        self.csv = options.csv
        self._titles = options.csv
        self.hist = options.hist
        self.order = options.sort
        self.by: tuple[str, ...] | None = None
        self.number = options.top
        self.figures = render.STATE_FIGURES if states else render.SESSION_FIGURES

    def quantities(self) -> tuple[str, ...]:
        """Those whose distributions it shows."""
        if self.states:
            return ("ms",)
        if self.json:
            return keys.QUANTITIES
        return (self.hist,) if self.hist else TABLE

    def any_quantities(self) -> tuple[str, ...]:
        """If it may be changed from a histogram to the table, and back."""
        return tuple(dict.fromkeys((*self.quantities(), *TABLE)))

    def lines(self, summary: Summary, moment: float, repeated: bool) -> Iterator[str]:
        """moment: seconds since 1970. repeated: there are more to come."""
        if self.json:
            text = rfc3339(int(moment * 1000000))[1:-1]
            for part in self._parts(summary):
                yield from render.json_lines(
                    part, self.number, self.order, text, self.quantities()
                )
            return
        if self.csv:
            clock = time.strftime("%H:%M:%S", time.localtime(moment))
            yield from render.csv_lines(
                self._parts(summary)[-1],
                self.figures,
                self.number,
                self.order,
                time=clock if repeated else "",
                titles=self._titles,
            )
            self._titles = False
            return
        if repeated:
            yield time.strftime("%H:%M:%S", time.localtime(moment))
        for part in self._parts(summary):
            if self.hist:
                yield from render.histograms(
                    part, self.hist, self.number, self.order, _blocks()
                )
            else:
                yield from render.table(part, self.figures, self.number, self.order)
                yield ""

    def _parts(self, summary: Summary) -> list[Summary]:
        if not self.states:
            return [summary if self.by is None else summary.regrouped(self.by)]
        states = summary.regrouped(("oldstate",))
        return [states] if self.hist else [states, summary]


def _blocks() -> bool:
    """Whether there is a terminal that shows Unicode's blocks."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    return sys.stdout.isatty() and encoding == "utf8"


def summarize(
    name: str,
    wire: Wire,
    options: argparse.Namespace,
    *,
    scope: str = "new",
    whole_life: bool = False,
) -> None:
    """Traces until it is told to stop, and shows summaries."""
    # Not for what has been recorded, which is summed up elsewhere.
    from tcplife.kernel.source import KernelSource
    from tcplife.kernel.sums import Request

    if "host" in getattr(options, "by", ()):
        raise UsageError("--by host is of --replay: here is one host only")
    states = wire.sender == "tcpstates"
    view = View(options, states)
    by = keys.STATE_BY if states else options.by
    quantities = view.quantities()
    live: Live | None = None
    rows = options.json or options.csv
    if options.interval and not rows and _is_terminal(name):
        from tcplife.cli.live import Live

        live = Live(view, options.max_groups)
        quantities = view.any_quantities()
    request = Request(wire.sender, by, quantities, options.max_groups)
    stop = host.stop_from(options, requests=scope == "all")
    with KernelSource(
        wire,
        filter_from(options),
        scope=scope,
        whole_life=whole_life,
        paths="cgroup"
        in {f for n in by if n in keys.KEYS for f in keys.KEYS[n].fields},
        tier=options.tier,
        btf=options.btf,
        max_sessions=options.max_sessions,
        request=request,
    ) as tracing:
        host.has_begun(name, options, tracing)
        losses = LossReport(partial(messages.say, name))
        born = "life_us" if whole_life else "span_us"

        def adder(summary: Summary) -> Callable[[memoryview], None]:
            if states:
                return change_adder(wire, summary)
            return session_adder(wire, summary, born, tracing.origin.lookups)

        pieces = _pieces(
            tracing, stop, options.interval, by, options.max_groups, adder, losses
        )
        folded = 0
        try:
            if live:
                live.run(pieces, stop)
            else:
                for piece in pieces:
                    folded += piece.others()
                    print_lines(view.lines(piece, time.time(), bool(options.interval)))
        finally:
            losses.finish()
            host.tell_unseen(name, tracing)
            say_folded(name, live.others() if live else folded)
            _say_uncounted(name, tracing)


def _pieces(
    tracing: KernelSource,
    stop: Stop,
    interval: float | None,
    by: Sequence[str],
    max_groups: int,
    adder: Callable[[Summary], Callable[[memoryview], None]],
    losses: LossReport,
) -> Iterator[Summary]:
    """A summary for each interval; for the whole time, if there is none."""
    from tcplife.kernel.source import INTERVAL

    began = time.monotonic()
    piece = Summary(by, max_groups)
    add = adder(piece)

    def finished() -> Summary:
        if tracing.sums:
            piece.merge(tracing.sums.take())
        piece.seconds = time.monotonic() - began
        return piece

    # Records have to be read often; the kernel side's sums can wait.
    look = min(interval or 1.0, 1.0) if tracing.sums else INTERVAL
    for batch in tracing.batches(stop, look, ticks=True):
        if len(batch):
            add(batch.data)
        losses.see(batch.loss)
        if interval and time.monotonic() - began >= interval - 0.001:
            yield finished()
            began = time.monotonic()
            piece = Summary(by, max_groups)
            add = adder(piece)
    yield finished()


def print_lines(lines: Iterator[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    write_all(messages.STDOUT, text.encode("utf-8", "backslashreplace"))


def _is_terminal(name: str) -> bool:
    """Whether a live view can be shown; says why not, where there is a terminal."""
    term = os.environ.get("TERM", "")
    if not os.isatty(messages.STDOUT) or not os.isatty(0) or term == "dumb":
        return False
    try:
        import curses

        curses.setupterm(term, messages.STDOUT)
    except ImportError as error:
        why = f"this Python has no {error.name}"
    except curses.error:
        why = f"terminfo does not know the terminal TERM={term}"
    else:
        return True
    messages.say(name, f"no live view: {why}; printing a table for each interval")
    return False


def say_folded(name: str, folded: int) -> None:
    if folded:
        messages.say(
            name,
            f"{folded} are in (other), as there were more groups than --max-groups",
        )


def _say_uncounted(name: str, tracing: KernelSource) -> None:
    uncounted = tracing.uncounted() if tracing.sums else 0
    if uncounted:
        messages.say(
            name,
            f"{uncounted} values are missing from the percentiles, for want of room;"
            " a higher --max-groups makes room",
        )
