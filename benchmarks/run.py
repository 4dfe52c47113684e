#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measure this project's tools beside libbpf-tools', in turn, under one load.

Run as root; prints a Markdown table. README.md here says what each figure means.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import platform
import pty
import re
import select
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
BPF_STATS = Path("/proc/sys/kernel/bpf_stats_enabled")
OURS, PEER, UNTRACED = "ours", "peer", "untraced"
PACED_RATE = 2000
ATTACH_TIMEOUT = 30.0
STEADY_SECONDS = 0.5
IDLE_SECONDS = 0.2
IDLE_TIMEOUT = 60.0
# A container's settings that no installed tool would run with: every start would
# compile all modules again, every write be unbuffered.
NOT_FOR_THE_TOOL = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
FOREIGN_SHARE = 0.02  # of the rows, from which on it is noted


class NotMeasured(Exception):
    """A figure could not be taken; the message says why."""


# ---- what is compared, and how it is judged ---------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    text: str
    met: Callable[[float, float], bool]  # (ours, ratio of ours to the peer's)


@dataclass(frozen=True, slots=True)
class Peer:
    """One of our tools and the libbpf-tools one that it is measured against."""

    name: str
    module_args: tuple[str, ...]  # ours, after the interpreter
    peer_argv: tuple[str, ...]
    rows_per_session: int  # both ends
    kernel_unit: str  # what the kernel time is given for ...
    kernel_per_session: int  # ... and how many of those a session has
    targets: dict[str, Target]


def ratio_at_most(limit: float, text: str) -> Target:
    return Target(text, lambda ours, ratio: ratio <= limit)


NONE_LOST = Target("0", lambda ours, ratio: ours == 0)

PEERS = (
    Peer(
        name="tcplife",
        module_args=("-m", "tcplife"),
        peer_argv=("/usr/sbin/tcplife",),
        rows_per_session=2,
        kernel_unit="session",
        kernel_per_session=1,
        targets={
            "throughput": Target("ours ≥ 0.95", lambda ours, ratio: ours >= 0.95),
            "cpu": ratio_at_most(1 / 4, "ratio ≤ 1/4"),
            "paced": ratio_at_most(1 / 6, "ratio ≤ 1/6"),
            "kernel": ratio_at_most(1 / 7, "ratio ≤ 1/7"),
            "start": ratio_at_most(3, "ratio ≤ 3"),
            "rss": Target("ours < 24 MiB", lambda ours, ratio: ours < 24),
            "lost": NONE_LOST,
        },
    ),
    Peer(
        name="tcpstates",
        module_args=("-m", "tcplife.cli.tcpstates"),
        peer_argv=("/usr/sbin/tcpstates",),
        rows_per_session=10,
        kernel_unit="state change",
        kernel_per_session=10,
        targets={
            "cpu": ratio_at_most(1 / 5, "ratio ≤ 1/5"),
            "kernel": ratio_at_most(1 / 4, "ratio ≤ 1/4"),
            "lost": NONE_LOST,
        },
    ),
)


@dataclass(frozen=True, slots=True)
class Metric:
    key: str
    section: str  # the runs that it is taken from
    title: str
    decimals: int
    value: Callable[[Run, Run | None, Peer], float]  # of a run and its untraced one
    combine: Callable[[Sequence[float]], float] = statistics.median


def against_untraced(run: Run, untraced: Run | None, peer: Peer) -> float:
    assert untraced is not None, "the flat rounds have one where this is asked for"
    return run.rate / untraced.rate


def cpu_per_row(run: Run, untraced: Run | None, peer: Peer) -> float:
    return run.cpu_ns / run.rows / 1e3


def kernel_per_unit(run: Run, untraced: Run | None, peer: Peer) -> float:
    ours = run.bpf_ns * own_share(run)
    return ours / run.sessions / peer.kernel_per_session / 1e3


def rows_lost(run: Run, untraced: Run | None, peer: Peer) -> float:
    return run.sessions * peer.rows_per_session - run.own_rows


METRICS = (
    Metric(
        "throughput",
        "flat",
        "sessions/s flat out, against none traced",
        2,
        against_untraced,
    ),
    Metric("cpu", "flat", "tool's CPU per row, flat out, µs", 2, cpu_per_row),
    Metric(
        "paced",
        "paced",
        f"tool's CPU per row at {PACED_RATE:,} sessions/s, µs",
        2,
        cpu_per_row,
    ),
    Metric(
        "kernel",
        "kernel",
        "kernel time in BPF per {unit}, µs",
        2,
        kernel_per_unit,
    ),
    Metric(
        "start",
        "start",
        "start to first byte on a pty, ms",
        1,
        lambda run, untraced, peer: run.seconds * 1e3,
    ),
    Metric(
        "rss",
        "flat",
        "peak RSS, flat out, MiB",
        1,
        lambda run, untraced, peer: run.peak_kib / 1024,
    ),
    Metric("lost", "long", "rows lost in {sessions:,} sessions", 0, rows_lost, sum),
)


@dataclass(frozen=True, slots=True)
class Run:
    """What one run gave. Untraced ones have no rows, start ones only seconds."""

    seconds: float
    sessions: int = 0
    rows: int = 0  # in the output file
    own_rows: int = 0  # of those, the generator's
    cpu_ns: int = 0
    bpf_ns: int = 0
    peak_kib: int = 0

    @property
    def rate(self) -> float:
        return self.sessions / self.seconds


Round = dict[str, Run]  # by side


def own_share(run: Run) -> float:
    """How much of the traced traffic was ours: the machine has other users."""
    return min(1.0, run.own_rows / run.rows)


# ---- a running tool ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Counters:
    cpu_ns: int
    bpf_ns: int
    bpf_runs: int


def fd_targets(pid: int) -> dict[str, str]:
    targets = {}
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            targets[fd.name] = os.readlink(fd)
    return targets


def fd_field(pid: int, fd: str, name: str) -> int:
    info = Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
    found = re.search(rf"^{name}:\s*(\d+)", info, re.MULTILINE)
    return int(found[1]) if found else 0


def bpf_time(pid: int) -> tuple[int, int]:
    """(ns, runs) of every program that the process holds, each counted once."""
    programs = {
        fd_field(pid, fd, "prog_id"): fd
        for fd, target in fd_targets(pid).items()
        if target == "anon_inode:bpf-prog"
    }
    return (
        sum(fd_field(pid, fd, "run_time_ns") for fd in programs.values()),
        sum(fd_field(pid, fd, "run_cnt") for fd in programs.values()),
    )


def cpu_time(pid: int) -> int:
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks)


def counters(pid: int) -> Counters:
    return Counters(cpu_time(pid), *bpf_time(pid))


def peak_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return int(found[1]) if found else 0


def is_asleep(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "S"


def is_attached(targets: dict[str, str]) -> bool:
    kinds = set(targets.values())
    return bool(kinds & {"anon_inode:bpf_link", "anon_inode:[perf_event]"})


@dataclass(frozen=True, slots=True)
class Tool:
    command: str
    process: subprocess.Popen[bytes]
    errors: Path  # its stderr


def start(argv: Sequence[str], stdin: int, stdout: int, errors: Path) -> Tool:
    command = shlex.join(argv)
    try:
        with errors.open("wb") as stderr:
            process = subprocess.Popen(
                argv, stdin=stdin, stdout=stdout, stderr=stderr.fileno()
            )
    except OSError as error:
        raise NotMeasured(f"{command}: {error.strerror}") from error
    return Tool(command, process, errors)


def stop(tool: Tool) -> None:
    """SIGINT first: libbpf-tools' lose buffered output on SIGTERM."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if tool.process.poll() is not None:
            return
        tool.process.send_signal(signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            tool.process.wait(timeout=10)


def ended(tool: Tool) -> NotMeasured:
    said = tool.errors.read_text(errors="replace").strip().splitlines()
    why = f": {said[-1]}" if said else ""
    return NotMeasured(
        f"{tool.command} ended with status {tool.process.returncode}{why}"
    )


def wait_attached(tool: Tool, out: Path) -> None:
    """Until the header is out or, where output is buffered, until a link is held
    and the tool sleeps with the same descriptors for half a second."""
    deadline = time.monotonic() + ATTACH_TIMEOUT
    before: dict[str, str] = {}
    since = time.monotonic()
    while time.monotonic() < deadline:
        if tool.process.poll() is not None:
            raise ended(tool)
        targets = fd_targets(tool.process.pid)
        if targets != before:
            before, since = targets, time.monotonic()
        if is_attached(targets):
            steady = time.monotonic() - since > STEADY_SECONDS
            if out.stat().st_size or (steady and is_asleep(tool.process.pid)):
                return
        time.sleep(0.02)
    raise NotMeasured(f"{tool.command} did not attach in {ATTACH_TIMEOUT:.0f} s")


def wait_idle(tool: Tool) -> None:
    """Until what the load left to do is done: under 1 % of a CPU, twice running."""
    deadline = time.monotonic() + IDLE_TIMEOUT
    used, history = cpu_time(tool.process.pid), [False]
    while not all(history[-2:]):
        time.sleep(IDLE_SECONDS)
        if tool.process.poll() is not None:
            raise ended(tool)
        if time.monotonic() > deadline:
            raise NotMeasured(f"{tool.command} was still busy after the load")
        before, used = used, cpu_time(tool.process.pid)
        history.append(used - before < IDLE_SECONDS * 1e9 / 100)


@contextlib.contextmanager
def running(argv: Sequence[str], out: Path, errors: Path) -> Iterator[Tool]:
    with out.open("wb") as stdout:
        tool = start(argv, subprocess.DEVNULL, stdout.fileno(), errors)
    try:
        wait_attached(tool, out)
        yield tool
    finally:
        stop(tool)


def count_rows(path: Path, port: int) -> tuple[int, int]:
    """(all rows, the generator's). Columns are found by the header and counted
    from the right, for a command's name may hold spaces. The generator's
    listening socket has two state changes, which belong to no session."""
    with path.open(errors="replace") as lines:
        names = next(lines, "").split()
        if not {"LPORT", "RPORT"} <= set(names):
            raise NotMeasured(f"no header in the output: {' '.join(names)[:60]!r}")
        local, remote = (names.index(name) - len(names) for name in ("LPORT", "RPORT"))
        wanted = str(port)
        rows = own = 0
        for line in lines:
            row = line.split()
            rows += 1
            if len(row) >= len(names) - 1 and wanted in (row[local], row[remote]):
                own += not ("LISTEN" in row and "CLOSE" in row)
    return rows, own


# ---- one run ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    args: tuple[str, ...]
    stats: bool = False  # with kernel.bpf_stats_enabled


@dataclass(frozen=True, slots=True)
class Generated:
    sessions: int
    seconds: float
    port: int


def compile_load(folder: Path) -> Path:
    program = folder / "load"
    compiler = os.environ.get("CC", "cc")
    done = subprocess.run(
        [*shlex.split(compiler), "-O2", "-Wall", "-o", program, HERE / "load.c"],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise NotMeasured(f"load.c does not compile: {done.stderr.strip()}")
    return program


def generate(program: Path, load: Load) -> Generated:
    done = subprocess.run(
        [program, *load.args], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise NotMeasured(f"the load failed: {done.stderr.strip()}")
    said = dict(pair.split("=") for pair in done.stdout.split())
    return Generated(int(said["sessions"]), float(said["seconds"]), int(said["port"]))


@contextlib.contextmanager
def bpf_stats(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    old = BPF_STATS.read_text()
    BPF_STATS.write_text("1")
    try:
        yield
    finally:
        BPF_STATS.write_text(old)


def run_untraced(program: Path, load: Load) -> Run:
    made = generate(program, load)
    return Run(made.seconds, made.sessions)


def run_traced(argv: Sequence[str], program: Path, load: Load) -> Run:
    out, errors = program.with_name("out"), program.with_name("errors")
    with running(argv, out, errors) as tool:
        pid = tool.process.pid
        with bpf_stats(load.stats):
            before = counters(pid)
            made = generate(program, load)
            wait_idle(tool)
            after = counters(pid)
        peak = peak_kib(pid)
    rows, own_rows = count_rows(out, made.port)
    out.unlink()
    if not own_rows:
        raise NotMeasured(f"{tool.command} printed none of the load's rows")
    if load.stats and after.bpf_runs - before.bpf_runs < made.sessions:
        raise NotMeasured(
            f"{tool.command}: its BPF programs show fewer runs than the load had"
            " sessions: was kernel.bpf_stats_enabled changed by someone else?"
        )
    return Run(
        seconds=made.seconds,
        sessions=made.sessions,
        rows=rows,
        own_rows=own_rows,
        cpu_ns=after.cpu_ns - before.cpu_ns,
        bpf_ns=after.bpf_ns - before.bpf_ns,
        peak_kib=peak,
    )


def first_byte(tool: Tool, master: int, began: float) -> Run:
    readable, _, _ = select.select([master], [], [], ATTACH_TIMEOUT)
    seconds = time.perf_counter() - began
    if not readable:
        raise NotMeasured(f"{tool.command} printed nothing on a pty")
    try:
        os.read(master, 1)
    except OSError:  # EIO: it ended without a word
        tool.process.wait(timeout=10)
        raise ended(tool) from None
    return Run(seconds)


def run_start(argv: Sequence[str], folder: Path) -> Run:
    """The time from starting the tool to its first byte on a terminal."""
    master, slave = pty.openpty()
    try:
        began = time.perf_counter()
        try:
            tool = start(argv, slave, slave, folder / "errors")
        finally:
            os.close(slave)
        try:
            return first_byte(tool, master, began)
        finally:
            stop(tool)
    finally:
        os.close(master)


# ---- sections: rounds of runs, in turn --------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything."""

    warm_up: int  # sessions
    flat_rounds: int
    flat_seconds: float
    few_rounds: int  # paced, kernel
    paced_seconds: float
    start_rounds: int
    sessions: int  # of the long run


FULL = Plan(150_000, 20, 1.5, 5, 5, 21, 1_000_000)
QUICK = Plan(20_000, 5, 0.7, 2, 1.5, 15, 50_000)


def in_turn(sides: Sequence[str], rounds: int) -> Iterator[Sequence[str]]:
    for i in range(rounds):
        first = i % len(sides)
        yield [*sides[first:], *sides[:first]]


def section_rounds(
    section: str,
    sides: Sequence[str],
    commands: dict[str, list[str]],
    program: Path,
    plan: Plan,
) -> list[Round]:
    flat = Load(("-s", str(plan.flat_seconds)))
    loads = {
        "flat": (flat, plan.flat_rounds),
        "paced": (
            Load(("-s", str(plan.paced_seconds), "-r", str(PACED_RATE))),
            plan.few_rounds,
        ),
        "kernel": (Load(flat.args, stats=True), plan.few_rounds),
        "long": (Load(("-n", str(plan.sessions))), 1),
        "start": (None, plan.start_rounds),
    }
    load, count = loads[section]

    def one(side: str) -> Run:
        if load is None:
            return run_start(commands[side], program.parent)
        if side == UNTRACED:
            return run_untraced(program, load)
        return run_traced(commands[side], program, load)

    return [{side: one(side) for side in order} for order in in_turn(sides, count)]


# ---- results ----------------------------------------------------------------


@dataclass(slots=True)
class Report:
    rows: list[list[str]] = field(default_factory=list)
    spreads: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def values(metric: Metric, side: str, rounds: list[Round], peer: Peer) -> list[float]:
    return [metric.value(turn[side], turn.get(UNTRACED), peer) for turn in rounds]


def spread(found: Sequence[float], decimals: int) -> str:
    low, _, high = statistics.quantiles(found, n=4, method="inclusive")
    return f"{low:,.{decimals}f} to {high:,.{decimals}f}"


def add_result(
    report: Report, metric: Metric, title: str, peer: Peer, rounds: list[Round]
) -> None:
    sides = {side: values(metric, side, rounds, peer) for side in (OURS, PEER)}
    ours, theirs = (metric.combine(sides[side]) for side in (OURS, PEER))
    ratio = ours / theirs if theirs else math.nan
    target = peer.targets.get(metric.key)
    report.rows.append(
        [
            title,
            f"{ours:,.{metric.decimals}f}",
            f"{theirs:,.{metric.decimals}f}",
            "-" if math.isnan(ratio) or metric.key == "lost" else f"{ratio:.2f}",
            target.text if target else "-",
            ("yes" if target.met(ours, ratio) else "no") if target else "-",
        ]
    )
    if metric.combine is statistics.median and len(rounds) > 1:
        report.spreads.append(
            f"{title}: ours {spread(sides[OURS], metric.decimals)},"
            f" libbpf-tools' {spread(sides[PEER], metric.decimals)}"
            f" ({len(rounds)} rounds)"
        )


def note_other_traffic(report: Report, section: str, rounds: list[Round]) -> None:
    runs = [run for turn in rounds for run in turn.values() if run.rows]
    least = min((own_share(run) for run in runs), default=1.0)
    if least < 1 - FOREIGN_SHARE:
        report.notes.append(
            f"{section}: other traffic made up to {1 - least:.0%} of a run's rows"
        )


def measure(
    report: Report,
    peer: Peer,
    metrics: Sequence[Metric],
    commands: dict[str, list[str]],
    program: Path,
    plan: Plan,
) -> None:
    with contextlib.suppress(NotMeasured, OSError):  # the sections will say it
        for argv in commands.values():  # the first start of ours compiles its modules
            run_traced(argv, program, Load(("-n", "1000")))
    for section in dict.fromkeys(metric.section for metric in metrics):
        print(f"{peer.name}: {section} runs ...", file=sys.stderr, flush=True)
        wanted = [metric for metric in metrics if metric.section == section]
        untraced = any(metric.key == "throughput" for metric in wanted)
        sides = [UNTRACED, OURS, PEER] if untraced else [OURS, PEER]
        rounds: list[Round] = []
        try:
            rounds = section_rounds(section, sides, commands, program, plan)
        except (NotMeasured, OSError) as problem:
            report.notes.append(f"not measured: {peer.name}, {section}: {problem}")
        note_other_traffic(report, f"{peer.name}, {section}", rounds)
        for metric in wanted:
            title = f"{peer.name}: " + metric.title.format(
                unit=peer.kernel_unit, sessions=plan.sessions
            )
            if rounds:
                add_result(report, metric, title, peer, rounds)
            else:
                report.rows.append([title, *["not measured"] * 2, "-", "-", "-"])


def print_table(rows: Sequence[Sequence[str]]) -> None:
    heads = ["Metric", "ours", "libbpf-tools", "ratio", "target", "met?"]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, ["-" * width for width in widths], *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("| " + " | ".join(cells) + " |")


def print_report(report: Report) -> None:
    print_table(report.rows)
    print(
        f"\nLinux {platform.release()} {platform.machine()},"
        f" {os.cpu_count()} cores, Python {platform.python_version()},"
        f" {time.strftime('%Y-%m-%d')}."
    )
    if report.spreads:
        print("\nThe middle half of the runs:\n")
        print("\n".join(f"- {line}" for line in report.spreads))
    if report.notes:
        print("\nNotes:\n")
        print("\n".join(f"- {line}" for line in report.notes))


# ---- command line -----------------------------------------------------------


def names_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"unknown: {name!r} (choose from {', '.join(known)})"
                )
        return names

    return parse


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def for_tool(text: str) -> tuple[str, list[str]]:
    """'CMD' for tcplife, or 'tcpstates=CMD'."""
    name, equals, command = text.partition("=")
    if equals and name in (peer.name for peer in PEERS):
        return name, shlex.split(command)
    return PEERS[0].name, shlex.split(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    tools, metrics = [p.name for p in PEERS], [m.key for m in METRICS]
    parser.add_argument(
        "--quick", action="store_true", help="small counts: about a minute a tool"
    )
    parser.add_argument(
        "--only",
        type=names_of(metrics),
        default=metrics,
        metavar="METRIC,...",
        help=f"of {', '.join(metrics)}",
    )
    parser.add_argument(
        "--tools",
        type=names_of(tools),
        default=tools[:1],
        metavar="TOOL,...",
        help=f"of {', '.join(tools)} (default {tools[0]})",
    )
    parser.add_argument("--runs", type=positive, help="rounds of each kind of run")
    parser.add_argument("--sessions", type=positive, help="of the run for rows lost")
    for option, whose in (("--tool", "our command"), ("--peer", "the peer's command")):
        parser.add_argument(
            option,
            type=for_tool,
            action="append",
            default=[],
            metavar="[TOOL=]CMD",
            help=f"{whose} (TOOL: {tools[0]} unless told)",
        )
    return parser.parse_args()


def planned(args: argparse.Namespace) -> Plan:
    base = QUICK if args.quick else FULL
    return Plan(
        warm_up=base.warm_up,
        flat_rounds=args.runs or base.flat_rounds,
        flat_seconds=base.flat_seconds,
        few_rounds=args.runs or base.few_rounds,
        paced_seconds=base.paced_seconds,
        start_rounds=args.runs or base.start_rounds,
        sessions=args.sessions or base.sessions,
    )


def commands_for(
    peer: Peer, args: argparse.Namespace, folder: Path
) -> dict[str, list[str]]:
    ours = dict(args.tool).get(peer.name)
    if ours is None:  # from this checkout; the peer is not Python and does not care
        os.environ["PYTHONPATH"] = str(HERE.parent / "src")
        os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "pycache")
        ours = [sys.executable, *peer.module_args]
    return {OURS: ours, PEER: dict(args.peer).get(peer.name) or list(peer.peer_argv)}


def main() -> int:
    args = arguments()
    plan = planned(args)
    metrics = [metric for metric in METRICS if metric.key in args.only]
    # Children inherit "ignored", which a background job starts with, but no handler.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    if os.geteuid():
        print("run.py: must be root: the tools load BPF programs", file=sys.stderr)
        return 1
    for name in NOT_FOR_THE_TOOL:
        os.environ.pop(name, None)
    report = Report()
    try:
        with tempfile.TemporaryDirectory(prefix="tcplife-bench-") as folder:
            program = compile_load(Path(folder))
            run_untraced(program, Load(("-n", str(plan.warm_up))))
            for peer in PEERS:
                if peer.name in args.tools:
                    commands = commands_for(peer, args, program.parent)
                    measure(report, peer, metrics, commands, program, plan)
    except NotMeasured as problem:
        print(f"run.py: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print_report(report)
    missing = [note for note in report.notes if note.startswith("not measured")]
    for note in missing:
        print(f"run.py: {note}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
