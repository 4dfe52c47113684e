"""The options that both commands have, each declared once."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial

import tcplife
from tcplife.cli.messages import STDOUT
from tcplife.errors import (
    UsageError,
)
from tcplife.fileio import write_all
from tcplife.filters import parse
from tcplife.filters.parse import (
    parse_pids,
    parse_ports,
)
from tcplife.summary import keys
from tcplife.summary.summary import ORDERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from tcplife.columns.column import Columns


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        # Because of -4 and -6, argparse would take any negative number for an
        # option, and say of `--duration -1` that it lacks its value.
        self._has_negative_number_optionals.clear()
        self._given = list(args[0] if args and args[0] is not None else sys.argv[1:])
        return super().parse_args(*args, **kwargs)

    def _print_message(self, message: str, file: object = None) -> None:
        # What --help and --version print, with our ends for closed pipes and the like.
        write_all(STDOUT, message.encode())

    def error(self, message: str) -> NoReturn:
        option, _, rest = message.removeprefix("argument ").partition(": ")
        if rest.startswith("expected") and set(option.split("/")) & set(self._given):
            at = next(n for n, word in enumerate(self._given) if word in option)
            value = self._given[at + 1 : at + 2]
            if value and value[0].startswith("-"):
                message = f"{option} {value[0]}: not a value for it; see the help"
        raise UsageError(f"{message} (see {self.prog} --help)")


class Joined(argparse.Action):
    """Given again, it adds to what was given before, as ps -o does."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, f"{before},{values}" if before else values)


def new_parser(name: str, description: str, epilog: str) -> Parser:
    return Parser(
        prog=name,
        description=description,
        epilog=epilog,
        # Given a width, argparse does not import shutil to ask for one (3 ms).
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=79),
    )


def add_layout_options(parser: Parser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("output")
    add = group.add_argument
    add("-T", "--time", action="store_true", help="include time column (HH:MM:SS)")
    add("-t", "--timestamp", action="store_true", help="include time column (seconds)")
    add("-w", "--wide", action="store_true", help="wide columns (fit IPv6 addresses)")
    add("-s", "--csv", action="store_true", help="comma separated values")
    add("--json", action="store_true", help="JSON, one object a line")
    return group


def add_filter_options(parser: Parser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("filters (in the kernel; all must hold)")
    add = group.add_argument
    add(
        "-p",
        "--pid",
        metavar="PID[,PID]",
        type=partial(parse_pids, "-p/--pid"),
        default=(),
        help="sessions of these processes only",
    )
    add(
        "-L",
        "--localport",
        metavar="PORTS",
        type=partial(parse_ports, "-L/--localport"),
        default=(),
        help="these local ports only: numbers, ranges, services, as in"
        " 80,8000-8999,https",
    )
    add(
        "-D",
        "--remoteport",
        metavar="PORTS",
        type=partial(parse_ports, "-D/--remoteport"),
        default=(),
        help="these remote (destination) ports only",
    )
    families = group.add_mutually_exclusive_group()
    families.add_argument(
        "-4",
        "--ipv4",
        dest="family",
        action="store_const",
        const=4,
        default=0,
        help="IPv4 only (also through an IPv6 socket)",
    )
    families.add_argument(
        "-6", "--ipv6", dest="family", action="store_const", const=6, help="IPv6 only"
    )
    return group


def add_run_options(parser: Parser) -> None:
    group = parser.add_argument_group("running")
    add = group.add_argument
    add(
        "-c",
        "--count",
        metavar="N",
        type=_count,
        help="leave after N rows",
    )
    add(
        "--duration",
        metavar="SECONDS",
        type=_seconds,
        help="leave after this time",
    )
    add("-v", "--verbose", action="store_true", help="say what is loaded, and why")
    add(
        "--ebpf",
        action="store_true",
        help="print the kernel program's source, and leave",
    )
    add(
        "-V",
        "--version",
        action="version",
        version=_version(),
    )


def _version() -> str:
    """Whose it is, and from where: bcc, bpftrace and libbpf-tools have namesakes."""
    python = ".".join(map(str, sys.version_info[:3]))
    folder = os.path.dirname(os.path.abspath(tcplife.__file__))
    return (
        f"%(prog)s {tcplife.__version__}\n"
        f"of the Python package tcplife in {folder}, with Python {python}"
    )


def add_host_options(parser: Parser) -> None:
    group = parser.add_argument_group("host")
    add = group.add_argument
    add(
        "--check",
        action="store_true",
        help="say what tracing needs, whether this host has it, and leave",
    )
    add(
        "--tier",
        metavar="N",
        type=_tier,
        help="only this way of tracing, 1 to 4, instead of the best that there is",
    )
    add(
        "--btf",
        metavar="FILE",
        type=btf_file,
        help="the kernel's types (BTF), for kernels that do not bring them",
    )
    add(
        "--max-sessions",
        metavar="N",
        type=_max_sessions,
        default=65536,
        help="tiers 2 to 4: follow so many at once (default: %(default)s)",
    )
    add(
        "--user",
        metavar="NAME",
        type=_user,
        help="run on as this user, once tracing has begun",
    )


def add_statistics_options(parser: Parser, states: bool) -> None:
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
            type=lambda text: keys.parse_by("--by", text),
            default=None,
            help="a line for each: " + ", ".join(keys.KEYS) + ", subnet/24 (of"
            " remote addresses); default: " + ",".join(keys.DEFAULT_BY),
        )
    add(
        "--sort",
        metavar="FIGURE",
        type=_order,
        default=None,
        help=f"the greatest first: {', '.join(ORDERS)} (default: count)",
    )
    add("--top", metavar="N", type=_top, help="no more lines; the rest is (other)")
    if states:
        parser.set_defaults(max_groups=None)
    else:
        add(
            "--max-groups",
            metavar="N",
            type=_max_groups,
            default=None,
            help="keep so many apart; the rest is (other) (default:"
            f" {keys.MAX_GROUPS})",
        )


def add_recording_options(parser: Parser) -> None:
    group = parser.add_argument_group("recordings")
    add = group.add_argument
    add(
        "--record",
        metavar="FILE",
        help="no rows: keep all there is to know in a file, for --replay; - is"
        " standard output",
    )
    add(
        "--rotate",
        metavar="SIZE|TIME",
        type=_rotation,
        action="append",
        default=[],
        help="record to FILE.000001 and so on, a new one when this one is as large as"
        " 500M or 1G, or as old as 30m or 1h; may be given twice",
    )
    add(
        "--keep", metavar="N", type=_keep, help="with --rotate: only the latest N files"
    )
    add(
        "--replay",
        metavar="FILE",
        nargs="+",
        default=[],
        help="show recordings, of several hosts merged by time, instead of tracing;"
        " needs no root; - is standard input",
    )
    add(
        "--format",
        choices=FORMATS,
        help="with --replay: into a file or database of this kind, which -O names",
    )
    add("-O", "--output", metavar="FILE", help="with --format: the file to make")
    add(
        "--force",
        action="store_true",
        help="with --record or -O: replace the file if it exists",
    )


FORMATS = ("arrow", "duckdb", "parquet", "sqlite")


_TIMES = {"s": 1, "m": 60, "h": 3600, "d": 86400}


# A file has room for its header, its end and some blocks.
_LEAST_SIZE = 1 << 16


def _rotation(text: str) -> tuple[str, int]:
    """`bytes` or `seconds`, and how many."""
    number, unit = text[:-1], text[-1:]
    if number.isascii() and number.isdecimal() and 0 < int(number[:9]) < 1000000:
        if unit in parse.SIZES and int(number) * parse.SIZES[unit] >= _LEAST_SIZE:
            return "bytes", int(number) * parse.SIZES[unit]
        if unit in _TIMES:
            return "seconds", int(number) * _TIMES[unit]
    raise UsageError(
        f"--rotate {text}: give a size of 64K or more, as in 500M or 1G, or a time, as"
        " in 30m, 1h or 1d"
    )


def _keep(text: str) -> int:
    if text.isascii() and text.isdecimal() and 0 < int(text[:9]) < 1000000:
        return int(text)
    raise UsageError(f"--keep {text}: give a number of files, 1 to 999999")


def _hist(text: str) -> str:
    if text in keys.QUANTITIES:
        return text
    raise UsageError(f"--hist {text}: give one of {', '.join(keys.QUANTITIES)}")


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
    if text in ORDERS:
        return text
    raise UsageError(f"--sort {text}: give one of {', '.join(ORDERS)}")


def _top(text: str) -> int:
    if text.isascii() and text.isdecimal() and int(text[:9]) > 0:
        return int(text[:9])
    raise UsageError(f"--top {text}: give a number of lines, 1 or more")


def _max_groups(text: str) -> int:
    if text.isascii() and text.isdecimal() and 0 < int(text[:9]) <= 1 << 20:
        return int(text)
    raise UsageError(f"--max-groups {text}: give a number from 1 to 1048576")


def _tier(text: str) -> int:
    if text in ("1", "2", "3", "4"):
        return int(text)
    raise UsageError(f"--tier {text}: give 1, 2, 3 or 4")


def btf_file(text: str) -> str:
    """A file that is BTF itself, or ELF with BTF in it."""
    try:
        with open(text, "rb") as file:
            begin = file.read(4)
    except OSError as error:
        raise UsageError(f"--btf {text}: {error.strerror}") from None
    if not begin.startswith((b"\x9f\xeb", b"\x7fELF")):
        raise UsageError(
            f"--btf {text}: not BTF; give a .btf file, unpacked, or a vmlinux"
        )
    return text


def _max_sessions(text: str) -> int:
    if text.isascii() and text.isdecimal() and 0 < int(text[:20]) <= 1 << 24:
        return int(text[:20])
    raise UsageError(f"--max-sessions {text}: give a number from 1 to 16777216")


def _user(text: str) -> str:
    import pwd

    try:
        pwd.getpwnam(text)
    except KeyError:
        raise UsageError(f"--user {text}: no such user; give a name") from None
    return text


def _count(text: str) -> int:
    if (
        text.isascii()
        and text.isdecimal()
        and len(text) < 20
        and 0 < int(text) < 1 << 63
    ):
        return int(text)
    raise UsageError(
        f"-c/--count {text}: not a number of rows; give one from 1 to {10**19 - 1}"
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    # A longer wait than epoll(7) takes would be an error of ours.
    if not 0 < seconds <= 1e9:
        raise UsageError(
            f"--duration {text}: not a number of seconds; give more than 0, as in 2.5"
        )
    return seconds


def columns_help(columns: Columns) -> str:
    """A line a title: the first column that has it."""
    lines: dict[str, str] = {}
    for column in columns.values():
        unit = f" [{column.unit}]" if column.unit else ""
        line = f"  {column.title:<9} {column.meaning}{unit}\n"
        lines.setdefault(column.title, line)
    return "columns:\n" + "".join(lines.values())
