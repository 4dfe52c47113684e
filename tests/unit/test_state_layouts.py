"""tcpstates' headers and rows, byte for byte as bcc's tool lays them out, and JSON."""

from __future__ import annotations

import itertools
import json
import os
import struct
from datetime import datetime, timedelta, timezone
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import NamedTuple

import pytest

from tcplife.cli import host, messages, modes
from tcplife.cli import tcpstates as command
from tcplife.columns.states import STATE_COLUMNS
from tcplife.records import abi
from tcplife.records.batch import Batch, Loss
from tcplife.records.wire import STATE_CHANGE

from .records import FRAME, OWNER, WALL_OFFSET
from .test_layouts import tool

# bcc's tcpstates: header_string and format_string.
BCC = (
    "%-16s %-5s %-10.10s %s%-15s %-5s %-15s %-5s %-11s -> %-11s %s",
    "%-16x %-5d %-10.10s %s%-15s %-5d %-15s %-5d %-11s -> %-11s %.3f",
)
BCC_WIDE = (
    "%-16s %-5s %-16.16s %-2s %-26s %-5s %-26s %-5s %-11s -> %-11s %s",
    "%-16x %-5d %-16.16s %-2s %-26s %-5s %-26s %-5d %-11s -> %-11s %.3f",
)
BCC_CSV = ("%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s", "%x,%d,%s,%s,%s,%s,%s,%d,%s,%s,%.3f")
STATES = [
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "NEW_SYN_RECV",
]


class Change(NamedTuple):
    """owner, current: PID and name; the states as their numbers."""

    skaddr: int = 0xFFFF88812EBCEF00
    owner: tuple[int, bytes] = (4321, b"curl")
    current: tuple[int, bytes] = (4321, b"curl")
    laddr: str = "127.0.0.1"
    lport: int = 40000
    raddr: str = "127.0.0.2"
    rport: int = 80
    states: tuple[int, int] = (2, 1)
    time_ns: int = 5_000_000_000
    span_us: int = 1_000
    first: int = 0
    unused: int = 0


CHANGES = [
    Change(states=(7, 2), lport=0, span_us=0, first=1),
    *(Change(states=(a, b)) for a in range(1, 13) for b in range(1, 13)),
    *(Change(span_us=us) for us in (1, 15, 4095, 4096, 4097, 86_400_000_005)),
    Change(current=(0, b"swapper/1"), owner=(0, b""), time_ns=5_000_001_999),
    Change(current=(4_194_304, b"fifteen-chars.x"), time_ns=65_000_000_000),
    Change(skaddr=1, laddr="::1", raddr="2001:db8:1234:5678:9abc:def0:1234:5678"),
    Change(laddr="::ffff:10.1.2.3", raddr="255.255.255.255", rport=65535),
    Change(laddr="0.0.0.0", raddr="0.0.0.0", rport=0, states=(7, 10)),
]


def pack(change: Change) -> bytes:
    values: dict[str, int | bytes | str | tuple[int, bytes] | tuple[int, int]] = {
        **change._asdict(),
        "owner": OWNER.pack(*change.owner),
        "current": OWNER.pack(*change.current),
        "states": bytes(change.states),
        "laddr": address(change.laddr),
        "raddr": address(change.raddr),
    }
    body = struct.Struct("=" + "".join(code for _, code in abi.STATE_EVENT))
    fields = [values[name] for name, _ in abi.STATE_EVENT]
    return FRAME.pack(body.size, 0) + body.pack(*fields)


def address(text: str) -> bytes:
    return inet_pton(AF_INET6, text if ":" in text else f"::ffff:{text}")


def show(options: str, monkeypatch: pytest.MonkeyPatch) -> str:
    fd = os.memfd_create("rows")
    monkeypatch.setattr(messages, "STDOUT", fd)
    given = command._parser().parse_args(options.split())
    layout = command._layout(given)
    sink = host.open_lines(given, STATE_CHANGE, STATE_COLUMNS, layout)
    data = memoryview(b"".join(map(pack, CHANGES)))
    sink.write(Batch(STATE_CHANGE, data, WALL_OFFSET, Loss()))
    sink.close()
    written = os.pread(fd, os.fstat(fd).st_size, 0)
    os.close(fd)
    return written.decode()


def as_bcc(options: str) -> str:
    """What bcc's print statements make of the same."""
    csv = "s" in options
    head, row = BCC_CSV if csv else BCC_WIDE if "w" in options else BCC
    with_ip = csv or "w" in options
    clock_form, title_form, elapsed_form = (
        ("%s,", "%s,", "%.6f,") if csv else ("%-8s ", "%-9s ", "%-9.6f ")
    )
    front = ("SKADDR", "C-PID", "C-COMM", "IP" if with_ip else "", "LADDR", "LPORT")
    titles = (*front, "RADDR", "RPORT", "OLDSTATE", "NEWSTATE", "MS")
    lines = [
        clock_form % "TIME" * ("T" in options)
        + title_form % "TIME(s)" * ("t" in options)
        + head % titles
    ]
    start_us = CHANGES[0].time_ns // 1000
    for change in CHANGES:
        raw = address(change.laddr), address(change.raddr)
        four = raw[1].startswith(bytes(10) + b"\xff\xff")
        laddr, raddr = (
            inet_ntop(AF_INET, a[12:]) if four else inet_ntop(AF_INET6, a) for a in raw
        )
        at = datetime.fromtimestamp(0, timezone.utc) + timedelta(
            seconds=(change.time_ns + WALL_OFFSET) // 1_000_000_000
        )
        values = (
            change.skaddr,
            change.current[0],
            change.current[1].decode(),
            ("4" if four else "6") if with_ip else "",
            laddr,
            change.lport,
            raddr,
            change.rport,
            *(STATES[number - 1] for number in change.states),
            float(change.span_us) / 1000,
        )
        lines.append(
            clock_form % at.astimezone().strftime("%H:%M:%S") * ("T" in options)
            + elapsed_form
            % (float(change.time_ns // 1000 - start_us) / 1000000)
            * ("t" in options)
            + row % values
        )
    return "".join(line + "\n" for line in lines)


KEYS = (
    "time,skaddr,c_pid,c_comm,pid,comm,ip,laddr,lport,raddr,rport,oldstate,newstate,ms"
)
OPTIONS = [
    "".join(letters)
    for count in range(5)
    for letters in itertools.combinations("wstT", count)
]


@pytest.mark.parametrize("options", OPTIONS)
def test_rows_are_bccs(
    options: str, monkeypatch: pytest.MonkeyPatch, time_zone: None
) -> None:
    assert show(f"-{options}" if options else "", monkeypatch) == as_bcc(options)


def test_formats_are_bccs_own() -> None:
    text = tool("tcpstates-bpfcc").decode()
    # Long ones are written there as two strings, one below the other.
    joined = text.replace('" +\n    "', "").replace('" +\n        "', "")
    for form in (*BCC, *BCC_WIDE, *BCC_CSV):
        assert f'"{form}"' in joined, form


def test_json(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [json.loads(line) for line in show("--json", monkeypatch).splitlines()]
    assert len(rows) == len(CHANGES)
    for row, change in zip(rows, CHANGES, strict=True):
        assert ",".join(row) == KEYS
        assert row["skaddr"] == f"{change.skaddr:x}"
        assert (row["c_pid"], row["c_comm"].encode()) == change.current
        known = change.owner[0] or None
        assert row["pid"] == known
        assert row["comm"] == (change.owner[1].decode() if known else None)
        assert (row["oldstate"], row["newstate"]) == tuple(
            STATES[number - 1] for number in change.states
        )
        assert row["ms"] == (None if change.first else change.span_us / 1000)


def test_state_option(monkeypatch: pytest.MonkeyPatch) -> None:
    given = command._parser().parse_args(["--state", "established,Close-Wait"])
    assert list(modes.filter_from(given).states) == [1, 8]
