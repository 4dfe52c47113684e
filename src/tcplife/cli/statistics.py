"""The options of --summary and --hist. What they do is in summing.py."""

from __future__ import annotations

import argparse

from tcplife import summary as summaries
from tcplife.cli import common
from tcplife.errors import UsageError


def add_options(parser: common.Parser, states: bool) -> None:
    group = parser.add_argument_group("statistics")
    add = group.add_argument
    add(
        "--summary",
        action="store_true",
        help="figures instead of rows: at exit, or for each interval; on a terminal,"
        " with -i, a live view",
    )
    add(
        "--hist",
        metavar="QUANTITY",
        nargs="?",
        const="ms",
        default=None,
        type=_hist_states if states else _hist,
        help="distributions of the time in each state"
        if states
        else "distributions: of ms (the default), connect, tx, rx or rtt",
    )
    add(
        "-i", "--interval", metavar="SECONDS", type=_interval, help="show it this often"
    )
    if not states:
        add(
            "--by",
            metavar="KEY,...",
            type=lambda text: summaries.parse_by("--by", text),
            default=summaries.DEFAULT_BY,
            help="a line for each: " + ", ".join(summaries.KEYS) + ", subnet/24 (of"
            " remote addresses); default: " + ",".join(summaries.DEFAULT_BY),
        )
    add(
        "--sort",
        metavar="FIGURE",
        type=_order,
        default="count",
        help=f"the greatest first: {', '.join(summaries.ORDERS)} (default: count)",
    )
    add("--top", metavar="N", type=_top, help="no more lines; the rest is (other)")
    if states:
        parser.set_defaults(max_groups=summaries.MAX_GROUPS)
    else:
        add(
            "--max-groups",
            metavar="N",
            type=_max_groups,
            default=summaries.MAX_GROUPS,
            help="keep so many apart; the rest is (other) (default: %(default)s)",
        )


def wanted(options: argparse.Namespace) -> bool:
    """Whether it is statistics that are asked for."""
    if options.summary or options.hist:
        for given, option in (
            (options.csv, "-s/--csv"),
            (options.wide, "-w/--wide"),
            (getattr(options, "columns", ""), "-o/--columns"),
            (getattr(options, "extended", False), "-x/--extended"),
            (getattr(options, "open", False), "--open"),
            (getattr(options, "journal", False), "-Y/--journal"),
            (options.count, "-c/--count"),
        ):
            if given:
                raise UsageError(f"{option} is of rows; leave it out with --summary")
        return True
    if options.interval:
        raise UsageError("-i/--interval is of --summary and --hist: add one of them")
    return False


def _hist(text: str) -> str:
    if text in summaries.QUANTITIES:
        return text
    raise UsageError(f"--hist {text}: give one of {', '.join(summaries.QUANTITIES)}")


def _hist_states(text: str) -> str:
    if text == "ms":
        return text
    raise UsageError(f"--hist {text}: of states there is the time only; leave it out")


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0.1 <= seconds <= 1e6:
        raise UsageError(f"-i/--interval {text}: give seconds, 0.1 or more")
    return seconds


def _order(text: str) -> str:
    if text in summaries.ORDERS:
        return text
    raise UsageError(f"--sort {text}: give one of {', '.join(summaries.ORDERS)}")


def _top(text: str) -> int:
    if text.isascii() and text.isdecimal() and int(text[:9]) > 0:
        return int(text[:9])
    raise UsageError(f"--top {text}: give a number of lines, 1 or more")


def _max_groups(text: str) -> int:
    if text.isascii() and text.isdecimal() and 0 < int(text[:9]) <= 1 << 20:
        return int(text)
    raise UsageError(f"--max-groups {text}: give a number from 1 to 1048576")
