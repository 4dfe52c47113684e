"""The command tcplife: a row for each TCP session that ends."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tcplife import layouts
from tcplife.cli import common
from tcplife.columns import SESSION_COLUMNS
from tcplife.errors import UsageError
from tcplife.events import SESSION

NAME = "tcplife"

EXAMPLES = """
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

_STYLES = {
    "bcc": layouts.LIFE_NARROW,
    "bt": layouts.LIFE_BT,
    "libbpf": layouts.LIFE_LIBBPF,
}
_WIDE_STYLES = {"bcc": layouts.LIFE_WIDE, "libbpf": layouts.LIFE_LIBBPF_WIDE}


def main() -> int:
    return common.run(NAME, _command)


def _command(arguments: Sequence[str]) -> None:
    options = _parser().parse_args(arguments)
    layout = _layout(options)
    if options.ebpf:
        common.print_source(NAME)
        return
    common.trace(
        NAME,
        SESSION,
        options,
        lambda: [common.open_lines(options, SESSION, SESSION_COLUMNS, layout)],
    )


def _parser() -> common.Parser:
    parser = common.new_parser(
        NAME,
        "Traces TCP sessions: a row for each that ends, with its owner, addresses,"
        "\nbytes and lifespan.",
        common.columns_help(SESSION_COLUMNS) + EXAMPLES,
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


def _layout(options: argparse.Namespace) -> layouts.Layout:
    common.check_json(options)
    if options.csv:
        if options.style != "bcc":
            raise UsageError(f"--style {options.style} has no -s/--csv: leave one out")
        return layouts.LIFE_CSV
    if options.wide:
        if options.style not in _WIDE_STYLES:
            raise UsageError(f"--style {options.style} has no -w/--wide: leave one out")
        return _WIDE_STYLES[options.style]
    return _STYLES[options.style]
