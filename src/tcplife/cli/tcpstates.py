"""The command tcpstates: a row for each change of a TCP socket's state."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

from tcplife import layouts
from tcplife.cli import common, recordings, statistics
from tcplife.columns import STATE_COLUMNS
from tcplife.events import STATE_CHANGE
from tcplife.filters import parse_states

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcplife.layouts import Columns
    from tcplife.recording.merge import Replay
    from tcplife.sinks import Sink

NAME = "tcpstates"

EXAMPLES = """
examples:
  tcpstates           # all state changes
  tcpstates -D 80     # those of sessions to port 80
  tcpstates -L 80,8000-8999
                      # those of sessions to these ports of this host
  tcpstates --state SYN_SENT
                      # connects: how long they take, and what becomes of them
  tcpstates -wT       # wide enough for IPv6, with the time of day
  tcpstates -stT      # CSV, with times
  tcpstates -Y        # to the systemd journal as well
  tcpstates --record web.tcpstates -L 80
                      # keep them, for --replay
"""


def main() -> int:
    return common.run(NAME, _command)


def _command(arguments: Sequence[str]) -> None:
    options = _parser().parse_args(arguments)
    layout = _layout(options)
    recorded = recordings.mode(options)
    if recorded == recordings.REPLAY:
        from tcplife.cli.replaying import replay

        shown = partial(_replayed, layout)
        replay(NAME, STATE_CHANGE, options, STATE_COLUMNS, shown, born="")
        return
    if options.ebpf:
        common.print_source(NAME, options.tier)
        return
    if options.check:
        common.check(options)
        return
    if recorded == recordings.RECORD:
        from tcplife.cli.recording import record

        record(NAME, STATE_CHANGE, options)
        return
    if statistics.wanted(options):
        from tcplife.cli.summing import summarize

        summarize(NAME, STATE_CHANGE, options)
        return
    sinks: list[Sink] = []
    if options.journal:
        from tcplife.sinks.journal import JournalSink

        # Before tracing begins: there may be no journal.
        sinks.append(JournalSink(partial(common.say, NAME)))
    common.trace(
        NAME,
        STATE_CHANGE,
        options,
        lambda lookups: [
            common.open_lines(options, STATE_CHANGE, STATE_COLUMNS, layout, lookups),
            *sinks,
        ],
    )


def _replayed(
    layout: layouts.Layout, columns: Columns, replayed: Replay
) -> tuple[Columns, layouts.Layout]:
    if len(replayed.hosts) > 1:
        layout = layouts.with_host(layout, max(map(len, replayed.hosts)))
    return columns, layout


def _parser() -> common.Parser:
    parser = common.new_parser(
        NAME,
        "Traces TCP state changes: a row for each, with the time spent in the state"
        "\nthat the socket leaves.",
        common.columns_help(STATE_COLUMNS)
        + "\nPID and COMM, the session's owner as far as known, are in JSON only.\n"
        + EXAMPLES,
    )
    common.add_filter_options(parser).add_argument(
        "--state",
        metavar="STATE[,STATE]",
        type=partial(parse_states, "--state"),
        default=(),
        help="only changes out of or into these states",
    )
    common.add_layout_options(parser).add_argument(
        "-Y",
        "--journal",
        action="store_true",
        help="log each change to the systemd journal as well",
    )
    statistics.add_options(parser, states=True)
    recordings.add_options(parser)
    common.add_run_options(parser)
    common.add_host_options(parser)
    return parser


def _layout(options: argparse.Namespace) -> layouts.Layout:
    common.check_json(options)
    if options.csv:
        return layouts.STATES_CSV
    return layouts.STATES_WIDE if options.wide else layouts.STATES_NARROW


if __name__ == "__main__":  # python -m tcplife.cli.tcpstates
    raise SystemExit(main())
