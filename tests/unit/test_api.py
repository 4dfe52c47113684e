"""The public API, as far as it goes without root."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

import tcplife
from tcplife.columns.objects import compile_records
from tcplife.columns.sessions import HOST, SESSION_COLUMNS
from tcplife.columns.states import STATE_COLUMNS
from tcplife.records.wire import STORY

from .records import CGROUPS, WALL_OFFSET, Show, pack
from .records import Session as Raw

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 21, tzinfo=timezone.utc)


def session(**given: Any) -> tcplife.Session:
    return tcplife.Session(time=NOW, **given)


def test_all_is_sorted_and_there() -> None:
    assert tcplife.__all__ == sorted(tcplife.__all__)
    assert all(getattr(tcplife, name) for name in tcplife.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = tcplife.nonsense


@pytest.mark.parametrize(
    ("kind", "columns"),
    [(tcplife.Session, SESSION_COLUMNS), (tcplife.StateChange, STATE_COLUMNS)],
)
def test_fields_are_the_columns(kind: Any, columns: dict[str, Any]) -> None:
    keys = [column.key for column in columns.values() if column.key]
    assert [field.name for field in fields(kind)] == [*keys, HOST.key]


def test_records_are_what_json_has(show: Show) -> None:
    raw = [
        Raw(),
        Raw(pid=0, comm=b"", error=111, end=4, dir=0, first=0, cgroup=2, before=1),
        Raw(laddr="2001:db8::1", connect_us=(1 << 64) - 1, srtt_us=0, cgroup=9),
        Raw(comm=b'a"\x1b\xff', min_rtt_us=(1 << 32) - 1, open_us=2_000_000),
    ]
    lookups: dict[str, Callable[[int], str | None]] = {"cgroup_path": CGROUPS.get}
    decode = compile_records(
        STORY, SESSION_COLUMNS, tcplife.Session, "span_us", lookups
    )
    found = decode(pack(*raw, wire=STORY), WALL_OFFSET)
    lines = show("--json", *raw).splitlines()
    assert len(found) == len(lines)
    for record, line in zip(found, lines, strict=True):
        expected = json.loads(line)
        expected["time"] = datetime.fromisoformat(expected["time"][:-1] + "+00:00")
        assert {name: getattr(record, name) for name in expected} == expected


def test_records_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        session().pid = 1  # type: ignore[misc]


SESSIONS = {
    "web": session(rport=443, pid=7, comm="curl", connect_ms=20.0, ms=5.0, dir="out"),
    "ssh": session(lport=22, pid=8, comm="sshd", uid=0, dir="in", tx_bytes=4000),
    "six": session(ip=6, laddr="2001:db8::1", raddr="2001:db8::2", end="refused"),
    "net": session(raddr="10.1.2.3", netns=42, end="timeout", rx_bytes=5000),
}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, "web ssh six net"),
        ({"pids": [7, 9]}, "web"),
        ({"remote_ports": [range(440, 444)]}, "web"),
        ({"local_ports": [(20, 22)]}, "ssh"),
        ({"family": 6}, "six"),
        ({"laddr": ["2001:db8::/32"]}, "six"),
        ({"raddr": ["10.0.0.0/8", "2001:db8::2"]}, "six net"),
        ({"comms": ["sshd"]}, "ssh"),
        ({"users": [0]}, "ssh"),
        ({"users": ["root"], "dir": "out"}, ""),
        ({"dir": "in"}, "ssh"),
        ({"ends": ["failed"]}, "six net"),
        ({"ends": ["closed", "timeout"]}, "web ssh net"),
        ({"min_ms": 5}, "web"),
        ({"min_bytes": 4001}, "net"),
        ({"slower_connect_ms": 20}, "web"),
    ],
)
def test_fake_source_is_filtered(wanted: dict[str, Any], expected: str) -> None:
    source = tcplife.FakeSource(SESSIONS.values())
    found = list(tcplife.trace(source=source, **wanted))
    assert found == [SESSIONS[name] for name in expected.split()]


def test_fake_source_of_changes() -> None:
    changes = [
        tcplife.StateChange(time=NOW, skaddr=1, oldstate=old, newstate=new)
        for old, new in (("CLOSE", "SYN_SENT"), ("ESTABLISHED", "CLOSE_WAIT"))
    ]
    source = tcplife.FakeSource([*changes, session()])
    assert list(tcplife.trace_states(source=source)) == changes
    assert list(tcplife.trace_states(source=source, states=["close"])) == changes[:1]


def test_loss_is_told() -> None:
    loss = tcplife.Loss(events=3, sessions=1)
    with tcplife.trace(source=tcplife.FakeSource([session()], loss)) as found:
        assert len(list(found)) == 1
    assert (found.loss.events, found.loss.total()) == (3, 4)


def test_async_iteration() -> None:
    async def gather() -> list[tcplife.Session]:
        source = tcplife.FakeSource(SESSIONS.values())
        async with tcplife.trace(source=source) as found:
            return [one async for one in found]

    assert asyncio.run(gather()) == list(SESSIONS.values())


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ({"remote_ports": [70000]}, "remote_ports=.*70000"),
        ({"local_ports": [range(0, 10, 2)]}, "gaps"),
        ({"pids": [0]}, "pids="),
        ({"family": 5}, "family=5"),
        ({"laddr": ["somewhere"]}, "laddr=.*somewhere"),
        ({"laddr": "10.0.0.0/8"}, "laddr='10.0.0.0/8': give a list, as in laddr="),
        ({"comms": "curl"}, "comms='curl': give a list"),
        ({"users": "root"}, "users='root': give a list"),
        ({"ends": "failed"}, "ends='failed': give a list"),
        ({"pids": 1}, "pids=1: give a list, as in"),
        ({"remote_ports": 80}, "remote_ports=80: give a list"),
        ({"local_ports": "80"}, "local_ports='80': give a list"),
        ({"users": ["nobody-of-that-name"]}, "users="),
        ({"netns": ["none"]}, "netns="),
        ({"cgroup": "/no/such"}, "cgroup"),
        ({"dir": "up"}, "dir up"),
        ({"ends": ["never"]}, "ends=.*never"),
        ({"min_ms": -1}, "min_ms -1"),
        ({"timeout": 0}, "timeout=0"),
    ],
)
def test_bad_arguments_are_named(wanted: dict[str, Any], named: str) -> None:
    with pytest.raises(tcplife.UsageError, match=named):
        tcplife.trace(source=tcplife.FakeSource([]), **wanted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"files": "web.tcplife"}, "files='web.tcplife': give a list"),
        ({"files": ["/no/such"]}, "files=/no/such: No such file or directory"),
        ({"files": [], "users": "root"}, "users='root': give a list"),
        ({"files": [], "netns": 7}, "netns=7: give a list"),
        ({"files": [], "comms": "curl"}, "comms='curl': give a list"),
    ],
)
def test_bad_arguments_of_replay_are_named(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(tcplife.UsageError) as raised:
        tcplife.replay(**arguments)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("by", [("x",), "comm", ("comm", "comm"), ("subnet/x",)])
def test_a_summary_by_nothing_known_is_refused(by: Any) -> None:
    with pytest.raises(tcplife.UsageError, match=r"^by="):
        tcplife.Summary(by)


def examples() -> dict[str, str]:
    text = (ROOT / "docs/api.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return {f"example{number}": block for number, block in enumerate(blocks)}


def test_documented_examples_are_typed(tmp_path: Path) -> None:
    """A user's mypy agrees with what the documentation shows."""
    for name, block in examples().items():
        (tmp_path / f"{name}.py").write_text(f"import tcplife\n{block}")
    answer = subprocess.run(
        [sys.executable, "-m", "mypy", "--check-untyped-defs", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"MYPYPATH": str(ROOT / "src"), "PATH": ""},
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_types_are_refused_that_are_wrong(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import tcplife\n"
        "for session in tcplife.trace(dir='up', pids='1'):\n"
        "    session.laddr + 1\n"
        "    session.nonsense\n"
    )
    answer = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(wrong)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"MYPYPATH": str(ROOT / "src"), "PATH": ""},
        check=False,
    )
    assert answer.stdout.count("error:") == 4, answer.stdout


def test_the_documented_test_passes() -> None:
    [block] = [block for block in examples().values() if "def test_" in block]
    scope: dict[str, Any] = {}
    exec(block, scope)
    scope["test_slow_connects"]()
