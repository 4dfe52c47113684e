#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measure recordings: what they cost beside the table, and how fast they replay.

Run as root for the first part; prints Markdown tables. README.md here says what each
figure means. The second part takes duckdb (pip install '.[duckdb]') and awk.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import run as bench

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "src"))

from tcplife.recording.files import One  # noqa: E402
from tcplife.recording.reader import open_recording  # noqa: E402
from tcplife.recording.writer import Writer, header  # noqa: E402
from tcplife.records.batch import Batch, Loss  # noqa: E402
from tcplife.records.wire import STORY  # noqa: E402

SECONDS = 1.5  # of load, a round
COLUMNS = "comm,dir,lport,rport,end,connect_ms,tx_bytes,rx_bytes,ms,retrans,segs_out"

# The figures of --summary, of CSV. In awk, without percentiles.
DUCKDB = """
SELECT COMM, DIR, CASE DIR WHEN 'out' THEN RPORT ELSE LPORT END AS port, count(*),
    count(*) FILTER ("END" <> 'closed'), quantile_cont(MS, [0.5, 0.9, 0.99]), max(MS),
    quantile_cont(CONN_MS, [0.5, 0.99]), sum(TX_KB), median(TX_KB), sum(RX_KB),
    median(RX_KB), sum(RETR) / sum(SEGS_OUT)
FROM read_csv('{csv}') GROUP BY ALL ORDER BY 4 DESC
"""
AWK = """
NR > 1 {
    k = $1 "," $2 "," ($2 == "out" ? $4 : $3); n[k]++; f[k] += $5 != "closed"
    c[k] += $6; tx[k] += $7; rx[k] += $8; ms[k] += $9; r[k] += $10; s[k] += $11
    if ($9 > m[k]) m[k] = $9
}
END { for (k in n) print k, n[k], f[k], ms[k] / n[k], m[k], c[k], tx[k], rx[k], r[k] }
"""


class Cost(NamedTuple):
    seconds: float
    cpu: float
    peak_mib: float


# ---- recording beside printing


def cpu_of(argv: Sequence[str], program: Path) -> tuple[int, Path]:
    """Nanoseconds that it takes for the load's rows, and its output."""
    out, errors = program.with_name("out"), program.with_name("errors")
    with bench.running(argv, out, errors) as tool:
        before = bench.counters(tool.process.pid)
        bench.generate(program, bench.Load(("-s", str(SECONDS))))
        bench.wait_idle(tool)
        after = bench.counters(tool.process.pid)
    return after.cpu_ns - before.cpu_ns, out


def recorded_in(path: Path) -> int:
    recording, _ = open_recording(str(path))
    return sum(len(batch) for batch in recording.batches())


def recording_costs(tool: list[str], program: Path, rounds: int) -> None:
    table, recording, sizes = [], [], []
    for number in range(rounds + 1):
        for record in (number % 2 == 0, number % 2 == 1):
            cpu, out = cpu_of([*tool, "--record", "-"] if record else tool, program)
            if not number:
                continue  # a first one warms up
            if record:
                rows = recorded_in(out)
                sizes.append(out.stat().st_size / rows)
                recording.append(cpu / rows / 1e3)
            else:
                with out.open("rb") as lines:
                    table.append(cpu / (sum(1 for _ in lines) - 1) / 1e3)
    print("| Metric | table | recording | ratio |\n| --- | --- | --- | --- |")
    cpu_table, cpu_recording = statistics.median(table), statistics.median(recording)
    ratio = cpu_recording / cpu_table
    print(
        f"| tool's CPU per row, flat out, µs | {cpu_table:.2f} | {cpu_recording:.2f}"
        f" | {ratio:.2f} |"
    )
    print(f"| bytes a row on disk | - | {statistics.median(sizes):.1f} | - |")
    if rounds > 1:
        told = (bench.spread(found, 2) for found in (table, recording))
        print(f"\nThe middle half of {rounds} rounds: {' and '.join(told)} µs.")
    print(f"Load average: {' '.join(f'{load:.1f}' for load in os.getloadavg())}.\n")


# ---- replay beside DuckDB and awk


@contextlib.contextmanager
def long_recording(tool: list[str], program: Path, rows: int) -> Iterator[Path]:
    """A real load's records over and over, later each time."""
    _, out = cpu_of([*tool, "--record", "-"], program)
    recording, _ = open_recording(str(out))
    blocks = [
        (bytes(batch.data), batch.wall_offset)
        for batch in recording.batches()
        if batch.data
    ]
    path = program.with_name("long.tcplife")
    target = One(str(path))
    told = header(STORY, "tcplife", [], "new")
    writer = Writer(STORY, told, target.next)
    written = 0
    while written < rows:
        for data, offset in blocks:
            batch = Batch(
                STORY,
                memoryview(data),
                offset + written * 100000,
                Loss(),
                recording.origin,
            )
            batch.keep(rows - written)
            writer.write(batch)
            written += len(batch)
    writer.close()
    yield path


def cost_of(argv: Sequence[str], out: Path) -> Cost:
    began = time.monotonic()
    with out.open("wb") as stdout:
        process = subprocess.Popen(argv, stdout=stdout)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise bench.NotMeasured(f"{shlex.join(argv)}: status {status}")
    seconds = time.monotonic() - began
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def replay_costs(tool: list[str], path: Path, rows: int, rounds: int) -> None:
    replay = [*tool, "--replay", str(path)]
    csv, out = path.with_name("long.csv"), path.with_name("out")
    cost_of([*replay, "-s", "-o", COLUMNS], csv)
    duck = [sys.executable, "-c", "import duckdb, sys; duckdb.execute(sys.argv[1])"]
    select = f"SELECT * FROM read_csv('{csv}')"
    commands = {
        "--summary": [*replay, "--summary"],
        "DuckDB, the same from CSV": [*duck, DUCKDB.format(csv=csv)],
        "awk, the same but percentiles": ["awk", "-F,", AWK, str(csv)],
        "-s (CSV)": [*replay, "-s"],
        "-s, the columns that the others copy": [*replay, "-s", "-o", COLUMNS],
        "DuckDB, CSV to CSV": [*duck, f"COPY ({select}) TO '{out}' (HEADER)"],
        "awk, CSV to CSV": ["awk", "-F,", "-vOFS=,", "{ $1 = $1; print }", str(csv)],
    }
    found: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, argv in commands.items():
            found[name].append(cost_of(argv, out))
    print(f"Replay of {rows:,} sessions, {path.stat().st_size / 1e6:.0f} MB:\n")
    print("| | seconds | CPU, seconds | peak RSS, MiB |\n| --- | --- | --- | --- |")
    for name, costs in found.items():
        middle = [statistics.median(values) for values in zip(*costs, strict=True)]
        print(f"| {name} | {middle[0]:.1f} | {middle[1]:.1f} | {middle[2]:.0f} |")
    print(f"\nLoad average: {' '.join(f'{load:.1f}' for load in os.getloadavg())}.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tool", default=f"{sys.executable} -m tcplife")
    parser.add_argument("--rounds", type=bench.positive, default=9)
    parser.add_argument("--sessions", type=bench.positive, default=5_000_000)
    parser.add_argument("--only", choices=("recording", "replay"))
    args = parser.parse_args()
    os.environ["PYTHONPATH"] = str(HERE.parent / "src")
    for name in bench.NOT_FOR_THE_TOOL:
        os.environ.pop(name, None)
    tool = shlex.split(args.tool)
    with tempfile.TemporaryDirectory(prefix="tcplife-bench-") as folder:
        os.environ["PYTHONPYCACHEPREFIX"] = f"{folder}/pycache"
        program = bench.compile_load(Path(folder))
        if args.only != "replay":
            recording_costs(tool, program, args.rounds)
        if args.only != "recording":
            with long_recording(tool, program, args.sessions) as path:
                replay_costs(tool, path, args.sessions, min(args.rounds, 3))
    return 0


if __name__ == "__main__":
    sys.exit(main())
