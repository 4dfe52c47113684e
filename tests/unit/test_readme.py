"""What the README shows of recordings, run on one."""

from __future__ import annotations

import json
import re
import shlex
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tcplife.cli import modes
from tcplife.cli import tcplife as command

ROOT = Path(__file__).parents[2]
SESSIONS = ROOT / "tests/golden/sessions.tcplife"
SECTION = (ROOT / "README.md").read_text().partition("## Recordings")[2]
BLOCKS = re.findall(r"^```\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[list[str]]:
    """The words of each command; a quoted one may go over several lines."""
    words = shlex.split(block.replace("\n", " ; "), posix=True)
    found: list[list[str]] = [[]]
    for word in words:
        if word == ";":
            found.append([])
        else:
            found[-1].append(word.replace(" ; ", "\n"))
    return [argv for argv in found if argv]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the README's recording, after its conversions."""
    (tmp_path / "web.tcplife").symlink_to(SESSIONS)
    for argv in commands(BLOCKS[1]):
        if argv[0] == "tcplife":
            subprocess.run(
                [sys.executable, "-m", *argv],
                cwd=tmp_path,
                env={"PYTHONPATH": str(Path(command.__file__).parents[2])},
                check=True,
                timeout=60,
            )
    return tmp_path


def sessions() -> list[dict[str, Any]]:
    argv = [sys.executable, "-m", "tcplife", "--replay", str(SESSIONS), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    return [json.loads(line) for line in done.stdout.splitlines()]


def query(tool: str) -> list[str]:
    [argv] = [argv for argv in commands(BLOCKS[1]) if argv[0] == tool]
    return argv


def test_duckdb_finds_the_recordings_figures(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    _, option, statement = query("duckdb")
    assert option == "-c"
    found = duckdb.execute(statement).fetchall()
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for session in sessions():
        groups.setdefault((session["comm"], session["end"]), []).append(session)
    assert len(found) == len(groups) > 10
    for comm, end, count, sent, p99 in found:
        group = groups[comm, end]
        assert (count, sent) == (len(group), sum(s["tx_bytes"] for s in group))
        spans = sorted(s["ms"] for s in group)
        assert spans[0] <= p99 <= spans[-1]


def test_sqlite_finds_the_recordings_figures(folder: Path) -> None:
    _, name, statement = query("sqlite3")
    with sqlite3.connect(folder / name) as database:
        found = database.execute(statement).fetchall()
    database.close()
    assert found == sorted(found)
    failed = [s for s in sessions() if s["end"] != "closed"]
    wanted = Counter((s["time"][11:16], s["raddr"]) for s in failed)
    assert {(minute, raddr): count for minute, raddr, count in found} == wanted


def test_the_other_commands_are_ones() -> None:
    """That there are such options, and that they go together."""
    seen = set()
    for line in BLOCKS[0].splitlines():
        for part in re.split(r"[#$|]", line):
            words = shlex.split(part)
            if "tcplife" not in words:
                continue
            arguments = words[words.index("tcplife") + 1 :]
            seen.add(modes.mode(command._parser().parse_args(arguments)))
    assert seen == {modes.RECORD, modes.REPLAY}
