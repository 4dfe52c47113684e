"""What the options ask for, and what of them does not go together."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from math import ceil

from tcplife.errors import (
    UsageError,
)
from tcplife.filters import parse
from tcplife.filters.filter import Filter
from tcplife.filters.parse import (
    microseconds,
    parse_cgroup,
    parse_namespaces,
    parse_users,
)
from tcplife.summary import keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass

RECORD, REPLAY = "record", "replay"


def mode(options: argparse.Namespace) -> str:
    """RECORD, REPLAY or neither. Raises UsageError for what does not go together."""
    if options.record is not None and options.replay:
        raise UsageError("--record with --replay: choose one of them")
    if options.force and options.record is None and not options.output:
        raise UsageError("--force needs --record or -O/--output")
    if options.record is not None:
        _check(
            options, _NOT_RECORDED, "--record keeps all columns: leave {} to --replay"
        )
        _check(options, _OF_REPLAY, "{} needs --replay: leave it out with --record")
        _check(options, (("check", "--check"),), "--record with {}: choose one of them")
        if options.keep and not options.rotate:
            raise UsageError(f"--keep {options.keep}: add --rotate, as in --rotate 1h")
        return RECORD
    _check(options, _OF_RECORD, "{} needs --record FILE")
    if not options.replay:
        _check(options, _OF_REPLAY, "{} needs --replay FILE")
        return ""
    _check(options, _OF_TRACING, "{} is for tracing: leave it out with --replay")
    if options.replay.count("-") > 1:
        raise UsageError("--replay - -: there is one standard input; give - once")
    if bool(options.format) != bool(options.output):
        raise UsageError("--format and -O/--output go together: give both")
    if options.format:
        _check(options, _NOT_CONVERTED, "--format has all columns: leave {} out")
    return REPLAY


_OF_STATISTICS = (
    ("interval", "-i/--interval"),
    ("by", "--by"),
    ("sort", "--sort"),
    ("top", "--top"),
    ("max_groups", "--max-groups"),
)
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
    ("journal", "-Y"),
    *_OF_STATISTICS,
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


def summarizes(options: argparse.Namespace) -> bool:
    """Whether it is statistics that are asked for; then their defaults are set."""
    if options.summary or options.hist:
        for given, option in (
            (options.wide, "-w/--wide"),
            (getattr(options, "columns", ""), "-o/--columns"),
            (getattr(options, "extended", False), "-x/--extended"),
            (getattr(options, "open", False), "--open"),
            (getattr(options, "journal", False), "-Y/--journal"),
            (options.count, "-c/--count"),
        ):
            if given:
                raise UsageError(f"{option} is for rows: leave it out with --summary")
        if options.hist and options.csv:
            raise UsageError("--hist has no -s/--csv: leave one of them out")
        if not vars(options).get("by"):
            options.by = keys.DEFAULT_BY
        options.sort = options.sort or "count"
        options.max_groups = options.max_groups or keys.MAX_GROUPS
        return True
    _check(options, _OF_STATISTICS, "{} needs --summary or --hist")
    return False


def check_json(options: argparse.Namespace) -> None:
    for given, option in ((options.csv, "-s/--csv"), (options.wide, "-w/--wide")):
        if options.json and given:
            raise UsageError(f"--json with {option}: choose one of them")


def filter_from(options: argparse.Namespace) -> Filter:
    """Of the options there are, for this host. Raises UsageError."""
    given = vars(options)
    return filter_of(
        options,
        uids=parse_users("-u/--uid", given["uid"]) if "uid" in given else (),
        namespaces=parse_namespaces("--netns", given["netns"])
        if "netns" in given
        else (),
        cgroup=parse_cgroup("--cgroup", given["cgroup"]) if "cgroup" in given else "",
    )


def filter_of(
    options: argparse.Namespace,
    *,
    uids: Sequence[int],
    namespaces: Sequence[int],
    cgroup: str,
    users: Sequence[str] = (),
) -> Filter:
    """What depends on the host is given. Some options are one tool's only."""
    given = vars(options)
    return Filter(
        pids=options.pid,
        local_ports=options.localport,
        remote_ports=options.remoteport,
        family=options.family,
        states=given.get("state", ()),
        local_subnets=given.get("laddr", ()),
        remote_subnets=given.get("raddr", ()),
        comms=given.get("comm", ()),
        uids=uids,
        users=users,
        namespaces=namespaces,
        cgroup=cgroup,
        direction=given.get("dir", 0),
        ends=given.get("end", ()),
        min_us=microseconds(given.get("min_ms", 0)),
        min_bytes=ceil(given.get("min_bytes", 0)),
        slower_connect_us=microseconds(given.get("slower_connect", 0)),
    )


def recorded_filter_from(options: argparse.Namespace) -> Filter:
    """Of the options, for a host that cannot be asked."""
    given = vars(options)
    uids, users = parse.recorded_users(given["uid"]) if "uid" in given else ([], [])
    return filter_of(
        options,
        uids=uids,
        users=users,
        namespaces=parse.recorded_namespaces("--netns", given["netns"])
        if "netns" in given
        else (),
        cgroup=parse.recorded_cgroup(given["cgroup"]) if "cgroup" in given else "",
    )
