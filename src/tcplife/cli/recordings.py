"""The options of recordings. What they do is in recording.py and replaying.py."""

from __future__ import annotations

import argparse

from tcplife.cli import common
from tcplife.errors import UsageError

FORMATS = ("arrow", "duckdb", "parquet", "sqlite")
RECORD, REPLAY = "record", "replay"

_SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_TIMES = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# A file has room for its header, its end and some blocks.
_LEAST_SIZE = 1 << 16


def add_options(parser: common.Parser) -> None:
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


def mode(options: argparse.Namespace) -> str:
    """RECORD, REPLAY or neither. Raises UsageError for what does not go together."""
    if options.record is not None and options.replay:
        raise UsageError("--record with --replay: choose one of them")
    if options.record is not None:
        _check(
            options, _NOT_RECORDED, "--record keeps all columns: leave {} to --replay"
        )
        _check(options, _OF_REPLAY, "{} is of --replay: leave it out with --record")
        _check(options, (("check", "--check"),), "--record with {}: choose one of them")
        if options.keep and not options.rotate:
            raise UsageError(f"--keep {options.keep}: add --rotate, as in --rotate 1h")
        return RECORD
    _check(options, _OF_RECORD, "{} is of --record: add --record FILE")
    if not options.replay:
        _check(options, _OF_REPLAY, "{} is of --replay: add --replay FILE")
        return ""
    _check(options, _OF_TRACING, "{} is of tracing: leave it out with --replay")
    if options.replay.count("-") > 1:
        raise UsageError("--replay - -: there is one standard input; give - once")
    if bool(options.format) != bool(options.output):
        raise UsageError("--format and -O/--output go together: give both")
    if options.format:
        _check(options, _NOT_CONVERTED, "--format has all columns: leave {} out")
    return REPLAY


_NOT_RECORDED = (
    ("time", "-T"),
    ("timestamp", "-t"),
    ("wide", "-w"),
    ("csv", "-s"),
    ("json", "--json"),
    ("extended", "-x"),
    ("columns", "-o"),
    ("summary", "--summary"),
    ("hist", "--hist"),
    ("interval", "-i"),
    ("journal", "-Y"),
)
_NOT_CONVERTED = tuple(item for item in _NOT_RECORDED if item[0] != "journal")
_OF_RECORD = (("rotate", "--rotate"), ("keep", "--keep"))
_OF_REPLAY = (("format", "--format"), ("output", "-O/--output"))
_OF_TRACING = (
    ("all", "-a/--all"),
    ("open", "--open"),
    ("journal", "-Y/--journal"),
    ("duration", "--duration"),
    ("check", "--check"),
    ("tier", "--tier"),
    ("btf", "--btf"),
    ("user", "--user"),
)


def _check(
    options: argparse.Namespace, refused: tuple[tuple[str, str], ...], message: str
) -> None:
    given = vars(options)
    for name, option in refused:
        if given.get(name):
            raise UsageError(message.format(option))


def _rotation(text: str) -> tuple[str, int]:
    """`bytes` or `seconds`, and how many."""
    number, unit = text[:-1], text[-1:]
    if number.isascii() and number.isdecimal() and 0 < int(number[:9]) < 1000000:
        if unit in _SIZES and int(number) * _SIZES[unit] >= _LEAST_SIZE:
            return "bytes", int(number) * _SIZES[unit]
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
