"""sinks/journal.py and a real journald: read back is what was sent."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen, run
from typing import Any, NamedTuple

import pytest

from tcplife.errors import UnavailableError
from tcplife.sinks.journal import Journal, state_change_fields

from .journald import Journald, journald
from .tracer import PATIENCE, STATES, ours, wait_until

TOOL = "SYSLOG_IDENTIFIER=tcpstates"


class Change(NamedTuple):
    c_pid: int = 0
    c_comm: str = "swapper/0"
    ip: int = 4
    laddr: str = "192.0.2.1"
    lport: int = 43210
    raddr: str = "198.51.100.7"
    rport: int = 443
    oldstate: str = "SYN_SENT"
    newstate: str = "ESTABLISHED"
    span_us: int = 1234


V4 = Change()
V6 = Change(ip=6, laddr="2001:db8::1", raddr="2001:db8:ffff::2", span_us=0)


@pytest.fixture
def server() -> Iterator[Journald]:
    with journald() as running:
        yield running


@pytest.fixture
def journal(server: Journald) -> Iterator[Journal]:
    sender = Journal(server.socket)
    yield sender
    sender.close()


@contextmanager
def alarm() -> Iterator[None]:
    """What waits for ever becomes a failure."""

    def fail(*_: object) -> None:
        pytest.fail("it waits")  # no OSError, which send() would count

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def accepted(journal: Journal, number: int) -> bool:
    """Sends an entry that is told by its number; whether the journal took it."""
    before = journal.lost
    journal.send(state_change_fields(V4._replace(span_us=number)))
    return journal.lost == before


def numbers(entries: list[dict[str, Any]]) -> list[int]:
    return [int(entry["OBJECT_TCP_SPAN_TIME"]) for entry in entries]


def test_fields_are_those_of_bcc(server: Journald, journal: Journal) -> None:
    for change in (V4, V6):
        journal.send(state_change_fields(change))
    common = {
        "SYSLOG_IDENTIFIER": "tcpstates",
        "PRIORITY": "5",
        "OBJECT_PID": "0",
        "OBJECT_COMM": "swapper/0",
        "OBJECT_TCP_SOURCE_PORT": "43210",
        "OBJECT_TCP_DESTINATION_PORT": "443",
        "OBJECT_TCP_OLD_STATE": "SYN_SENT",
        "OBJECT_TCP_NEW_STATE": "ESTABLISHED",
    }
    entries = [
        # Those with underscores are journald's.
        {name: value for name, value in entry.items() if not name.startswith("_")}
        for entry in server.wait_for(2, TOOL)
    ]
    assert entries == [
        common
        | {
            "OBJECT_IPV4_SOURCE_ADDRESS": "192.0.2.1",
            "OBJECT_IPV4_DESTINATION_ADDRESS": "198.51.100.7",
            "OBJECT_TCP_SPAN_TIME": "1234",
            "MESSAGE": "swapper/0 192.0.2.1 43210 → 198.51.100.7 443"
            " SYN_SENT → ESTABLISHED",
        },
        common
        | {
            "OBJECT_IPV6_SOURCE_ADDRESS": "2001:db8::1",
            "OBJECT_IPV6_DESTINATION_ADDRESS": "2001:db8:ffff::2",
            "OBJECT_TCP_SPAN_TIME": "0",
            "MESSAGE": "swapper/0 2001:db8::1 43210 → 2001:db8:ffff::2 443"
            " SYN_SENT → ESTABLISHED",
        },
    ]
    assert journal.lost == 0


@pytest.mark.parametrize("change", [V4, V6], ids=["IPv4", "IPv6"])
def test_awkward_names_come_back_whole(
    server: Journald, journal: Journal, change: Change
) -> None:
    names = [
        "with space",
        "=equals=",
        "",
        "new\nline",
        "a\nPRIORITY=0",
        "\n",
        "end\n",
        "\x1b[31mred",
        "tab\tcr\rdel\x7f",
        "\x9b31m",
        "naïve-ü→",
        b"\xff\xfebad\x9b".decode("utf-8", "backslashreplace"),
        "\u202eevil",
    ]
    changes = [change._replace(c_comm=name) for name in names]
    sent = [dict(state_change_fields(each)) for each in changes]
    for fields in sent:
        journal.send(fields.items())
    entries = server.wait_for(len(names), TOOL)
    assert [
        {name: entry[name] for name in fields}
        for fields, entry in zip(sent, entries, strict=True)
    ] == sent
    assert [entry["OBJECT_COMM"] for entry in entries] == names
    assert all(entry["MESSAGE"].isprintable() for entry in entries)


def test_lone_surrogates_are_no_crash(server: Journald, journal: Journal) -> None:
    journal.send([("MESSAGE", "x"), ("OBJECT_COMM", "\udcff")])
    (entry,) = server.wait_for(1, "MESSAGE=x")
    assert entry["OBJECT_COMM"] == r"\udcff"


def test_a_running_process_is_named_once(server: Journald, journal: Journal) -> None:
    """As root by journald, which would put our name beside its own."""
    pid = os.getpid()
    journal.send(state_change_fields(Change(c_pid=pid, c_comm="a thread")))
    (entry,) = server.wait_for(1, TOOL)
    assert entry["OBJECT_PID"] == str(pid)
    assert entry["OBJECT_COMM"] == Path(f"/proc/{pid}/comm").read_text().rstrip()
    assert entry["MESSAGE"].startswith("a thread ")


def test_without_root_the_name_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    fields = state_change_fields(Change(c_pid=1, c_comm="a thread"))
    assert ("OBJECT_COMM", "a thread") in fields


def test_10_000_at_once_are_all_kept(server: Journald, journal: Journal) -> None:
    """Each that the journal takes, once and in order; refused ones are told."""
    refused = 0
    with alarm():
        for number in range(10_000):
            while not accepted(journal, number):
                refused += 1
    entries = server.wait_for(10_000, TOOL)
    assert numbers(entries) == list(range(10_000))
    assert journal.lost == refused


def test_a_frozen_journal_is_not_waited_for(server: Journald, journal: Journal) -> None:
    server.freeze()
    with alarm():
        kept = [number for number in range(3000) if accepted(journal, number)]
    # The queue that systemd gives it, and not just our send buffer.
    assert 500 < len(kept) < 3000
    assert journal.lost == 3000 - len(kept)
    server.thaw()
    wait_until(lambda: accepted(journal, 9999), "not taken after the thaw")
    assert numbers(server.wait_for(len(kept) + 1, TOOL)) == [*kept, 9999]


def test_a_journal_that_goes_away_and_comes_back(
    server: Journald, journal: Journal
) -> None:
    assert accepted(journal, 1)
    server.wait_for(1, TOOL)
    server.kill()
    with alarm():
        assert not any(accepted(journal, 2) for _ in range(100))
        Path(server.socket).unlink()
        assert not any(accepted(journal, 3) for _ in range(100))
    assert journal.lost == 200
    server.restart()
    assert accepted(journal, 4)
    assert numbers(server.wait_for(2, TOOL)) == [1, 4]
    assert journal.lost == 200


def test_more_than_a_datagram_takes_is_lost(journal: Journal) -> None:
    journal.send([("MESSAGE", "x" * (8 << 20))])
    assert journal.lost == 1


def test_no_journal_is_one_clear_line(server: Journald, tmp_path: Path) -> None:
    def complaint(path: str) -> str:
        with pytest.raises(UnavailableError) as caught:
            Journal(path)
        (line,) = str(caught.value).splitlines()
        assert path in line
        assert "--journal" in line
        return line

    assert "No such file" in complaint(str(tmp_path / "none"))
    server.kill()
    assert "refused" in complaint(server.socket)
    assert complaint(str(tmp_path / ("x" * 200)))


def test_a_program_inside_finds_the_journal(server: Journald) -> None:
    """What `inside` promises to other tests: the path, the PID, the directory."""
    program = (
        "import os; from tcplife.sinks.journal import *;"
        "Journal().send([('MESSAGE', os.getcwd())])"
    )
    with Popen(server.inside(sys.executable, "-c", program)) as process:
        assert process.wait(PATIENCE) == 0
    (entry,) = server.wait_for(1, f"MESSAGE={os.getcwd()}")
    assert entry["_PID"] == str(process.pid)


def test_tcpstates_logs_what_it_prints(server: Journald) -> None:
    here = str(os.getpid())
    prefix = server.inside()
    with ours("-Y", "--json", "-p", here, tool=STATES, prefix=prefix) as tracer:
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname()) as client,
        ):
            listener.accept()[0].close()
            assert client.recv(1) == b""
        assert tracer.stop() == 0
        rows = [json.loads(line) for line in tracer.lines]
    assert len(rows) == 12  # two ends of five changes each, and the listener's two
    entries = server.wait_for(len(rows), TOOL)
    assert [
        (
            entry["OBJECT_IPV4_SOURCE_ADDRESS"],
            int(entry["OBJECT_TCP_SOURCE_PORT"]),
            entry["OBJECT_IPV4_DESTINATION_ADDRESS"],
            int(entry["OBJECT_TCP_DESTINATION_PORT"]),
            entry["OBJECT_TCP_OLD_STATE"],
            entry["OBJECT_TCP_NEW_STATE"],
            int(entry["OBJECT_TCP_SPAN_TIME"]) / 1000,
            int(entry["OBJECT_PID"]),
        )
        for entry in entries
    ] == [
        (
            row["laddr"],
            row["lport"],
            row["raddr"],
            row["rport"],
            row["oldstate"],
            row["newstate"],
            row["ms"] or 0,
            row["c_pid"],
        )
        for row in rows
    ]


def test_tcpstates_outlives_the_journal(server: Journald) -> None:
    """What a journal that has gone does not take is counted and told."""
    here = str(os.getpid())
    prefix = server.inside()
    with ours("-Y", "--json", "-p", here, tool=STATES, prefix=prefix) as tracer:
        server.kill()
        socket.create_server(("127.0.0.1", 0)).close()
        assert tracer.stop() == 0
        assert len(tracer.lines) == 2
        assert [line for line in tracer.errors if "lost: 2 entries" in line]


def test_tcpstates_needs_the_journal_it_is_to_log_to(server: Journald) -> None:
    server.kill()
    argv = server.inside(*STATES, "-Y")
    done = run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "--journal" in line
