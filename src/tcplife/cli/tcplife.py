"""The command tcplife: a row for each TCP session that ends."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tcplife import columns
from tcplife.cli import common
from tcplife.errors import UsageError
from tcplife.sinks.lines import json_lines, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcplife.sinks import Sink

NAME = "tcplife"

EXAMPLES = """\
examples:
  tcplife             # all sessions that open and close from now on
  tcplife -D 443      # those to port 443
  tcplife -L 80,8000-8999
                      # those to these ports of this host
  tcplife -p 181      # those of process 181
  tcplife -wT         # wide enough for IPv6, with the time of day
  tcplife -stT        # CSV, with times
  tcplife --json -c 5 # five objects, and leave
"""

_STYLES = {"bcc": columns.NARROW, "bt": columns.BT, "libbpf": columns.LIBBPF}


def main() -> int:
    return common.run(NAME, _command)


def _command(arguments: Sequence[str]) -> None:
    options = _parser().parse_args(arguments)
    layout = _layout(options)
    # Only now: this takes its time, which --help and mistakes need not wait for.
    from tcplife.kernel import program, trace

    if options.ebpf:
        common.print_text(program.source(NAME))
        return
    stop = common.stop_from(options)
    with trace.Trace(common.filter_from(options)) as session_trace:
        if options.verbose:
            tier = session_trace.tier
            common.say(NAME, f"libbpf {session_trace.libbpf_version}")
            common.say(NAME, f"tracing, tier {tier.number}: {tier.needs}")
        sink = _sink(options, layout)
        common.pump(NAME, session_trace.batches(stop), sink, options.count)


def _parser() -> common.Parser:
    parser = common.new_parser(
        NAME,
        "Traces TCP sessions: a row for each that ends, with its owner, addresses,"
        "\nbytes and lifespan.",
        _columns_help() + "\n" + EXAMPLES,
    )
    common.add_filter_options(parser)
    common.add_layout_options(parser).add_argument(
        "--style",
        choices=sorted(_STYLES),
        default="bcc",
        help="columns and lifespan as bcc's, bpftrace's (bt) or libbpf-tools'"
        " tcplife has them; a lifespan counts from ESTABLISHED, with bt from the"
        " first state, handshake included (default: bcc)",
    )
    common.add_run_options(parser)
    return parser


def _columns_help() -> str:
    told = {column.title: column for column in reversed(columns.COLUMNS.values())}
    lines = ["columns:"]
    for column in reversed(told.values()):
        unit = f" [{column.unit}]" if column.unit else ""
        lines.append(f"  {column.title:<8} {column.meaning}{unit}")
    return "\n".join(lines) + "\n"


def _layout(options: argparse.Namespace) -> columns.Layout:
    if options.json:
        for given, option in ((options.csv, "-s/--csv"), (options.wide, "-w/--wide")):
            if given:
                raise UsageError(f"--json with {option}: choose one of them")
        return _STYLES[options.style]
    if options.csv:
        if options.style != "bcc":
            raise UsageError(f"--style {options.style} has no -s/--csv: leave one out")
        return columns.CSV
    if options.wide:
        wide = {"bcc": columns.WIDE, "libbpf": columns.LIBBPF_WIDE}
        if options.style not in wide:
            raise UsageError(f"--style {options.style} has no -w/--wide: leave one out")
        return wide[options.style]
    return _STYLES[options.style]


def _sink(options: argparse.Namespace, layout: columns.Layout) -> Sink:
    if options.json:
        return json_lines(common.STDOUT, layout.born)
    return table(common.STDOUT, layout, time=options.time, elapsed=options.timestamp)
