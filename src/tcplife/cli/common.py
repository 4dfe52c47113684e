"""What the commands share: options, messages, and how they end."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from math import ceil

import tcplife
from tcplife.errors import (
    OutputClosed,
    OutputError,
    TcplifeError,
    UnavailableError,
    UsageError,
)
from tcplife.events import Batch, Loss
from tcplife.filters import (
    Filter,
    microseconds,
    parse_cgroup,
    parse_namespaces,
    parse_pids,
    parse_ports,
    parse_users,
)
from tcplife.sinks.lines import json_lines, table
from tcplife.sinks.output import write_all
from tcplife.stop import Stop
from tcplife.text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from tcplife.events import Wire
    from tcplife.kernel.trace import Trace
    from tcplife.layouts import Layout
    from tcplife.sinks import Sink
    from tcplife.sinks.lines import Lines
    from tcplife.sinks.rows import Columns, Lookups

STDOUT = 1
STDERR = 2


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        # Because of -4 and -6, argparse would take any negative number for an
        # option, and say of `--duration -1` that it lacks its value.
        self._has_negative_number_optionals.clear()
        return super().parse_args(*args, **kwargs)

    def _print_message(self, message: str, file: object = None) -> None:
        # What --help and --version print, with our ends for closed pipes and the like.
        write_all(STDOUT, message.encode())

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


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
        help="these local ports only: numbers, ranges, as in 80,8000-8999",
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
        version=f"%(prog)s {tcplife.__version__}",
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


def _count(text: str) -> int:
    if text.isascii() and text.isdecimal() and 0 < int(text[:20]) < 1 << 63:
        return int(text[:20])
    raise UsageError(f"-c/--count {text}: not a number of rows; give 1 or more")


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


def run(name: str, command: Callable[[Sequence[str]], None]) -> int:
    """Runs a command's body; the one place where errors become messages.

    The result is the exit status: 0, 1 for a host or an output that says no, 2
    for bad usage.
    """
    # Nothing here makes reference cycles, and looking for them takes a tenth of
    # the time at high rates.
    gc.disable()
    try:
        command(sys.argv[1:])
    except OutputClosed:
        # The interpreter would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
    except TcplifeError as error:
        say(name, str(error))
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:  # before tracing began
        return 130
    except Exception as error:
        if os.environ.get("TCPLIFE_DEBUG"):
            raise
        say(
            name,
            f"internal error, please report it: {type(error).__name__}: {error}"
            " (TCPLIFE_DEBUG=1 in the environment shows where)",
        )
        return 1
    return 0


def say(name: str, message: str) -> None:
    """One line on standard error, whatever the message quotes."""
    try:
        write_all(STDERR, (printable(f"{name}: {message}") + "\n").encode())
    except OutputError:
        return  # nobody is there to be told


def columns_help(columns: Columns) -> str:
    """A line a title: the first column that has it."""
    lines: dict[str, str] = {}
    for column in columns.values():
        unit = f" [{column.unit}]" if column.unit else ""
        line = f"  {column.title:<9} {column.meaning}{unit}\n"
        lines.setdefault(column.title, line)
    return "columns:\n" + "".join(lines.values())


def check_json(options: argparse.Namespace) -> None:
    for given, option in ((options.csv, "-s/--csv"), (options.wide, "-w/--wide")):
        if options.json and given:
            raise UsageError(f"--json with {option}: choose one of them")


def trace(
    name: str,
    wire: Wire,
    options: argparse.Namespace,
    open_sinks: Callable[[Lookups], Sequence[Sink]],
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
    from tcplife.kernel.trace import Trace

    stop = stop_from(options, requests=scope == "all")
    with Trace(
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
        lookups: Lookups = {"cgroup_path": tracing.cgroup_path}
        batches = tracing.batches(stop, ticks=record)
        pump(name, batches, open_sinks(lookups), options.count, record)
        tell_unseen(name, tracing)


def has_begun(
    name: str,
    options: argparse.Namespace,
    tracing: Trace,
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


def tell_unseen(name: str, tracing: Trace) -> None:
    """What could not be looked into."""
    if tracing.partial:
        say(
            name,
            "not all network namespaces could be entered, which takes"
            " CAP_SYS_ADMIN, CAP_SYS_PTRACE and the host's PID namespace: sessions"
            " open in the others are not listed",
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
    options: argparse.Namespace,
    wire: Wire,
    columns: Columns,
    layout: Layout,
    lookups: Lookups,
    *,
    titles: bool = True,
) -> Lines:
    """The rows on standard output, as the options want them."""
    if options.json:
        return json_lines(STDOUT, wire, columns, lookups, layout.born)
    return table(
        STDOUT,
        wire,
        columns,
        layout,
        lookups,
        time=options.time,
        elapsed=options.timestamp,
        titles=titles,
    )


def print_text(text: str) -> None:
    write_all(STDOUT, text.encode())


def print_source(name: str, tier: int | None) -> None:
    from tcplife.kernel.program import source

    print_text(source(name, tier))


def stop_from(options: argparse.Namespace, *, requests: bool) -> Stop:
    """requests: SIGUSR1 asks for the sessions that are open."""
    stop = Stop(options.duration)
    if requests:
        stop.on_request(signal.SIGUSR1)
    stop.on_signals((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    stop.when_unread(STDOUT)
    return stop


def pump(
    name: str,
    batches: Iterable[Batch],
    sinks: Sequence[Sink],
    count: int | None,
    empty: bool = False,
) -> None:
    """Takes batches to the sinks until they end, or `count` rows are written.

    empty: batches without records, too.
    """
    losses = LossReport(name)
    try:
        for batch in batches:
            if count is not None:
                batch.keep(count)
                count -= len(batch)
            if batch.data or empty:
                for sink in sinks:
                    sink.write(batch)
            losses.see(batch.loss)
            if count == 0:
                break
    finally:
        losses.finish()
        for sink in sinks:
            sink.close()


class LossReport:
    """Says what was lost: while it grows, at most once a second; and at the end."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last = Loss()
        self._not_before = 0.0

    def see(self, loss: Loss) -> None:
        if loss is not self._last:
            grown = loss.total() > self._last.total()
            self._last = loss
            if grown and time.monotonic() >= self._not_before:
                self._tell()
                self._not_before = time.monotonic() + 1

    def finish(self) -> None:
        if self._last.total():
            self._tell()

    def _tell(self) -> None:
        loss = self._last
        parts = [
            f"{number} {what}"
            for number, what in (
                (loss.events, "rows found the ring buffer full"),
                (loss.sessions, "sessions could not be followed for want of memory"),
                (loss.unresolved, "sessions ended with nobody to name as their owner"),
            )
            if number
        ]
        say(self._name, f"lost: {', '.join(parts)}")
