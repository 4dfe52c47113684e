"""What our own options cost, in turn and in the same run, beside libbpf-tools.

    sudo python benchmarks/options.py --tool .venv/bin/tcplife

For each set of options: the time in BPF and the tool's CPU, for a session of the load
(both of its ends); at a steady rate, how much of one processor the tool takes; and its
peak memory. Medians. README.md here has the load and how it is measured.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import run as base

PEER = "/usr/sbin/tcplife"
# As given to the tool; the peer has none.
VARIANTS = (
    "",
    "-x",
    "--json",
    "--tier 2",
    "--tier 3",
    "-x --tier 2",
    "-x --tier 3",
    "--summary",
    "--summary -i 1",
    "--summary -i 1 --tier 2",
    "peer",
)
RATES = (100, 1000)


class Taken:
    """The figures of one run."""

    def __init__(self, argv: Sequence[str], program: Path, load: base.Load) -> None:
        out, errors = program.with_name("out"), program.with_name("errors")
        with base.running(argv, out, errors) as tool:
            pid = tool.process.pid
            with base.bpf_stats(load.stats):
                before = base.counters(pid)
                made = base.generate(program, load)
                base.wait_idle(tool)
                after = base.counters(pid)
            self.peak_mib = base.peak_kib(pid) / 1024
        out.unlink()
        self.bpf_us = (after.bpf_ns - before.bpf_ns) / made.sessions / 1000
        self.cpu_us = (after.cpu_ns - before.cpu_ns) / made.sessions / 1000
        self.share = 100 * (after.cpu_ns - before.cpu_ns) / 1e9 / made.seconds


def print_table(rows: Sequence[Sequence[str]]) -> None:
    rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    for row in rows:
        print("| " + " | ".join(row) + " |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tool", default="tcplife", help="our command")
    parser.add_argument("--runs", type=int, default=5, help="rounds")
    parser.add_argument("--seconds", type=float, default=5, help="of a steady load")
    parser.add_argument("--sessions", type=int, default=20000, help="of one flat out")
    parser.add_argument("--only", help="variants, separated by commas")
    args = parser.parse_args()
    chosen = VARIANTS if args.only is None else args.only.split(",")
    flat = base.Load(("-n", str(args.sessions)))
    stats = base.Load(flat.args, stats=True)
    taken: dict[tuple[str, str], list[Taken]] = {}
    with tempfile.TemporaryDirectory() as folder:
        program = base.compile_load(Path(folder))
        loads = {"bpf": stats, "flat": flat}
        for rate in RATES:
            steady = ("-s", str(args.seconds), "-r", str(rate))
            loads[str(rate)] = base.Load(steady)
        for number in range(args.runs):
            for name, load in loads.items():
                for variant in (
                    chosen[number % len(chosen) :] + chosen[: number % len(chosen)]
                ):
                    argv = (
                        [PEER]
                        if variant == "peer"
                        else [args.tool, *shlex.split(variant)]
                    )
                    found = Taken(argv, program, load)
                    taken.setdefault((variant, name), []).append(found)
    header = [
        "options",
        "BPF µs",
        "CPU µs",
        *(f"% at {rate}/s" for rate in RATES),
        "MiB",
    ]
    rows = [header]
    for variant in chosen:

        def median(load: str, figure: str, variant: str = variant) -> str:
            found = [getattr(one, figure) for one in taken[variant, load]]
            return f"{statistics.median(found):.2f}"

        rows.append(
            [
                f"`{variant}`" if variant else "(none)",
                median("bpf", "bpf_us"),
                median("flat", "cpu_us"),
                *(median(str(rate), "share") for rate in RATES),
                median("flat", "peak_mib"),
            ]
        )
    print_table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
