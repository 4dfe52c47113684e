"""Tracing this host: what the commands do with it."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Collection, Sequence
from functools import partial

from tcplife.cli import messages
from tcplife.cli.messages import print_text, say
from tcplife.cli.modes import filter_from
from tcplife.columns.text import printable
from tcplife.errors import (
    UnavailableError,
)
from tcplife.pipeline.loop import Stop
from tcplife.pipeline.pump import pump
from tcplife.sinks.lines import json_lines, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcplife.columns.column import Columns
    from tcplife.columns.styles import Layout
    from tcplife.kernel.source import KernelSource
    from tcplife.records.batch import Sink
    from tcplife.records.wire import Wire
    from tcplife.sinks.lines import Lines


def trace(
    name: str,
    wire: Wire,
    options: argparse.Namespace,
    open_sinks: Callable[[], Sequence[Sink]],
    *,
    scope: str = "new",
    whole_life: bool = False,
    paths: bool = False,
    record: bool = False,
    needs: Collection[str] = (),
) -> None:
    """Traces until it is told to stop. open_sinks: called once tracing has begun.

    record: the sinks are to be told when nothing came, too. needs: capabilities that
    the sinks take.
    """
    # Only now: this takes its time, which --help and mistakes need not wait for.
    from tcplife.kernel.source import KernelSource

    stop = stop_from(options, requests=scope == "all")
    with KernelSource(
        wire,
        filter_from(options),
        scope=scope,
        whole_life=whole_life,
        paths=paths,
        tier=options.tier,
        btf=options.btf,
        max_sessions=options.max_sessions,
    ) as tracing:
        has_begun(name, options, tracing, needs)
        batches = tracing.batches(stop, ticks=record)
        pump(partial(say, name), batches, open_sinks(), options.count, record)
        tell_unseen(name, tracing)


def has_begun(
    name: str,
    options: argparse.Namespace,
    tracing: KernelSource,
    needs: Collection[str] = (),
) -> None:
    """Gives up what is not needed any more; says how it traces, if asked.

    needs: capabilities that somebody else takes.
    """
    from tcplife.kernel.privileges import give_up

    held = give_up({*tracing.needs_later(), *needs}, options.user)
    if not options.verbose:
        return
    say(name, f"libbpf {tracing.libbpf_version}")
    for complaint in tracing.passed_over:
        say(name, f"passed over {complaint}")
    say(name, f"privileges kept: {', '.join(held) or 'none'}")
    tier = tracing.tier
    how = ", summed up in the kernel" if tracing.sums else ""
    say(name, f"tracing, tier {tier.number}: {tier.needs}{how}")


def tell_unseen(name: str, tracing: KernelSource) -> None:
    """What could not be looked into."""
    missed = tracing.not_entered
    if missed:
        path, why = next(iter(missed.items()))
        more = f" and {len(missed) - 1} more" if len(missed) > 1 else ""
        say(
            name,
            f"sessions open in the network namespace {path} ({why}){more} are not"
            " listed: entering takes CAP_SYS_ADMIN, CAP_SYS_PTRACE and the host's PID"
            " namespace",
        )
    if tracing.blind:
        say(
            name,
            f"{tracing.blind} sessions may still have been held by a process that"
            f" could not be looked for, which takes {tracing.to_search}",
        )


def check(options: argparse.Namespace) -> None:
    """Prints what tracing needs. Raises UnavailableError if that is not all there."""
    from tcplife.kernel.check import report

    lines, works = report(options.btf, options.tier)
    print_text("".join(printable(line) + "\n" for line in lines))
    if not works:
        how = f" with tier {options.tier}" if options.tier else ""
        raise UnavailableError(f"this host cannot be traced{how}; see above")


def open_lines(
    options: argparse.Namespace, wire: Wire, columns: Columns, layout: Layout
) -> Lines:
    """The rows on standard output, as the options want them."""
    if options.json:
        return json_lines(messages.STDOUT, wire, columns, layout)
    return table(
        messages.STDOUT,
        wire,
        columns,
        layout,
        time=options.time,
        elapsed=options.timestamp,
    )


def print_source(name: str, tier: int | None) -> None:
    from tcplife.kernel.program import source

    print_text(source(name, tier))


def stop_from(options: argparse.Namespace, *, requests: bool) -> Stop:
    """requests: SIGUSR1 asks for the sessions that are open."""
    stop = Stop(options.duration)
    if requests:
        stop.on_request(signal.SIGUSR1)
    stop.on_signals((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    stop.when_unread(messages.STDOUT)
    return stop
