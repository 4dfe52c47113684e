"""The exact bytes that each format makes of the committed recordings, without root.

python -m tests.golden.test_golden --write makes what is expected anew; look at the
difference before it is committed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tcplife

HERE = Path(__file__).parent
SESSIONS = {
    "table": "",
    "times": "-Tt",
    "wide": "-w",
    "csv": "-s",
    "csv-times": "-stT",
    "bt": "--style bt",
    "libbpf": "--style libbpf",
    "libbpf-wide": "--style libbpf -wT",
    "extended": "-x",
    "extended-wide": "-xw",
    "extended-csv": "-xs",
    "columns": "-o host,time,end,errno,mss,segs_in,tx_rate,cc,ppid,netns,cgroup,born",
    "json": "--json",
    "json-bt": "--json --style bt",
    "count": "-c 3",
    "ports": "-L 2000-2005 -x",
    "failed": "-x --end failed",
    "six": "-6 --dir in --min-ms 1",
    "summary": "--summary",
    "summary-csv": "--summary -s --by comm,end",
    "summary-intervals-csv": "--summary -s -i 5 --by end",
    "summary-by": "--summary --by host,dir,end,user --sort p99 --top 4",
    "summary-json": "--summary --json",
    "summary-intervals": "--summary -i 5 --by end",
    "summary-groups": "--summary --by lport --max-groups 3",
    "hist": "--hist",
    "hist-tx": "--hist tx --by dir",
    "hist-json": "--hist connect --json --by end",
}
CHANGES = {
    "table": "",
    "times": "-Tt",
    "wide": "-w",
    "csv": "-s",
    "csv-times": "-stT",
    "json": "--json",
    "state": "--state SYN_SENT -4",
    "summary": "--summary",
    "summary-csv": "--summary -s",
    "summary-json": "--summary --json",
    "hist": "--hist",
}
CASES = {
    f"{recording}-{name}": (module, recording, options)
    for module, recording, cases in (
        ("tcplife", "sessions", SESSIONS),
        ("tcplife.cli.tcpstates", "changes", CHANGES),
    )
    for name, options in cases.items()
}


def shown(name: str) -> bytes:
    """What the command writes, to both its outputs."""
    module, recording, options = CASES[name]
    path = f"{recording}.tcplife"
    argv = [sys.executable, "-m", module, "--replay", path, *options.split()]
    environment = {
        **os.environ,
        "TZ": "NPT-5:45",
        "PYTHONPATH": str(Path(tcplife.__file__).parents[1]),
    }
    done = subprocess.run(
        argv,
        cwd=HERE,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def expected(name: str) -> Path:
    return HERE / "expected" / f"{name}.txt"


@pytest.mark.parametrize("name", CASES)
def test_bytes(name: str) -> None:
    assert shown(name) == expected(name).read_bytes()


def test_nothing_is_left_over() -> None:
    assert {path.stem for path in (HERE / "expected").iterdir()} == set(CASES)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        raise SystemExit(__doc__)
    for name in CASES:
        expected(name).parent.mkdir(exist_ok=True)
        expected(name).write_bytes(shown(name))
