"""The command tcpstates: a row for each change of a TCP socket's state."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

from tcplife.cli import host, messages, modes
from tcplife.cli import options as shared
from tcplife.columns import styles
from tcplife.columns.states import STATE_COLUMNS
from tcplife.filters.parse import parse_states
from tcplife.records.wire import STATE_CHANGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcplife.columns.column import Columns
    from tcplife.recording.merge import RecordingSource
    from tcplife.records.batch import Sink

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
    return messages.run(NAME, _command)


def _command(arguments: Sequence[str]) -> None:
    options = _parser().parse_args(arguments)
    layout = _layout(options)
    recorded = modes.mode(options)
    if recorded == modes.REPLAY:
        from tcplife.cli.replay import replay

        shown = partial(_replayed, layout)
        replay(NAME, STATE_CHANGE, options, STATE_COLUMNS, shown, born="")
        return
    if options.ebpf:
        host.print_source(NAME, options.tier)
        return
    if options.check:
        host.check(options)
        return
    if recorded == modes.RECORD:
        from tcplife.cli.record import record

        record(NAME, STATE_CHANGE, options)
        return
    if modes.summarizes(options):
        from tcplife.cli.summarize import summarize

        summarize(NAME, STATE_CHANGE, options)
        return
    sinks: list[Sink] = []
    if options.journal:
        from tcplife.sinks.journal import JournalSink

        # Before tracing begins: there may be no journal.
        sinks.append(JournalSink(partial(messages.say, NAME)))
    host.trace(
        NAME,
        STATE_CHANGE,
        options,
        lambda: [
            host.open_lines(options, STATE_CHANGE, STATE_COLUMNS, layout),
            *sinks,
        ],
    )


def _replayed(
    layout: styles.Layout, columns: Columns, replayed: RecordingSource
) -> tuple[Columns, styles.Layout]:
    if len(replayed.hosts) > 1:
        layout = styles.with_host(layout, max(map(len, replayed.hosts)))
    return columns, layout


def _parser() -> shared.Parser:
    parser = shared.new_parser(
        NAME,
        "Traces TCP state changes: a row for each, with the time spent in the state"
        "\nthat the socket leaves.",
        shared.columns_help(STATE_COLUMNS)
        + "\nPID and COMM, the session's owner as far as known, are in JSON only.\n"
        + EXAMPLES,
    )
    shared.add_filter_options(parser).add_argument(
        "--state",
        metavar="STATE[,STATE]",
        type=partial(parse_states, "--state"),
        default=(),
        help="only changes out of or into these states",
    )
    shared.add_layout_options(parser).add_argument(
        "-Y",
        "--journal",
        action="store_true",
        help="log each change to the systemd journal as well",
    )
    shared.add_statistics_options(parser, states=True)
    shared.add_recording_options(parser)
    shared.add_run_options(parser)
    shared.add_host_options(parser)
    return parser


def _layout(options: argparse.Namespace) -> styles.Layout:
    modes.check_json(options)
    if options.csv:
        return styles.STATES_CSV
    return styles.STATES_WIDE if options.wide else styles.STATES_NARROW


if __name__ == "__main__":  # python -m tcplife.cli.tcpstates
    raise SystemExit(main())
