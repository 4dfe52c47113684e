"""The objects of --json: their keys, their types, and that nothing is rounded."""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta, timezone
from typing import Any

from .records import WALL_OFFSET, Session, Show

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def objects(show: Show, *sessions: Session, options: str = "") -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in show(f"--json {options}", *sessions).split("\n")[:-1]
    ]


def test_keys_order_types(show: Show) -> None:
    session = Session(
        pid=4_194_304,
        comm=b"curl",
        laddr="::ffff:10.0.0.1",
        lport=65_535,
        raddr="10.0.0.2",
        rport=0,
        tx_bytes=(1 << 53) + 1,
        rx_bytes=0,
        time_ns=2_000_000_000 - WALL_OFFSET % 10**9,
        span_us=3_000,
    )
    [found] = objects(show, session)
    expected = {
        "time": "2026-09-21T14:13:22.000000Z",
        "pid": 4_194_304,
        "comm": "curl",
        "ip": 4,
        "laddr": "10.0.0.1",
        "lport": 65_535,
        "raddr": "10.0.0.2",
        "rport": 0,
        "tx_bytes": (1 << 53) + 1,
        "rx_bytes": 0,
        "ms": 3.0,
        "dir": "out",
        "end": "closed",
        "first": "remote",
        "errno": None,
        "connect_ms": 1.0,
        "open_ms": 0.9,
        "close_ms": 0.1,
        "rtt_ms": 0.25,
        "min_rtt_ms": 0.125,
        "retrans": 0,
        "retrans_bytes": 0,
        "lost_bytes": 0,
        "unread_bytes": 0,
        "mss": 1448,
        "segs_in": 5,
        "segs_out": 6,
        "tx_rate": None,
        "rx_rate": None,
        "cc": "cubic",
        "uid": 0,
        "user": "root",
        "ppid": 1,
        "netns": 4026531840,
        "cgroup": "/",
        "container": None,
        "pod": None,
        "born": "traced",
    }
    assert list(found.items()) == list(expected.items())
    assert list(map(type, found.values())) == list(map(type, expected.values()))


def test_ipv6(show: Show) -> None:
    [found] = objects(show, Session(laddr="2001:db8::0:1", raddr="::1"))
    assert (found["ip"], found["laddr"], found["raddr"]) == (6, "2001:db8::1", "::1")


def test_time_is_exact(show: Show) -> None:
    choose = random.Random(3339)
    # Up to ten years of uptime, with the borders of a second among them.
    times = [choose.randrange(10 * 365 * 86400 * 10**9) for _ in range(500)]
    border = 10**12 - WALL_OFFSET % 10**9
    times += [border - 1, border, border + 1, border + 999, border + 1000]
    found = objects(show, *(Session(time_ns=ns) for ns in times))
    for time_ns, row in zip(times, found, strict=True):
        told = datetime.strptime(row["time"], "%Y-%m-%dT%H:%M:%S.%f%z")
        assert (told - EPOCH) // timedelta(microseconds=1) == (
            time_ns + WALL_OFFSET
        ) // 1000
        assert row["time"].endswith("Z")
        assert len(row["time"]) == len("2026-09-21T14:13:20.000000Z")


def test_milliseconds_hold_every_microsecond(show: Show) -> None:
    choose = random.Random(1000)
    spans = [0, 1, 15, 999, 1000, 4_095, 4_096, 10**13 + 1]
    spans += [choose.randrange(10 ** choose.randrange(1, 14)) for _ in range(500)]
    found = objects(show, *(Session(span_us=us) for us in spans))
    assert [type(row["ms"]) for row in found] == [float] * len(spans)
    assert [round(row["ms"] * 1000) for row in found] == spans


def test_bytes_are_exact(show: Show) -> None:
    volumes = [0, 1, 1023, 4095, 4096, 4097, (1 << 32) + 1, (1 << 64) - 1]
    found = objects(show, *(Session(tx_bytes=n, rx_bytes=n ^ 1) for n in volumes))
    assert [row["tx_bytes"] for row in found] == volumes
    assert [row["rx_bytes"] for row in found] == [n ^ 1 for n in volumes]


def test_style_decides_the_lifespan(show: Show) -> None:
    session = Session(life_us=7_000, span_us=5_000)
    for style, milliseconds in (("bcc", 5.0), ("bt", 7.0), ("libbpf", 5.0)):
        [found] = objects(show, session, options=f"--style {style}")
        assert found["ms"] == milliseconds


def test_unknown_owner(show: Show) -> None:
    """PID 0 is nobody, whatever stands in its name."""
    known, unknown = Session(), Session(pid=0, comm=b"swapper/0")
    [_, found] = objects(show, known, unknown)
    assert found["pid"] is None
    assert found["comm"] is None
    assert show("-s", unknown).splitlines()[1].startswith(",,4,127.0.0.1,40000,")
    for shape, start in (
        ("", "-     -          127.0.0.1 "),
        ("-w", "-     -                4  127.0.0.1 "),
        ("--style bt", "-     -          127.0.0.1 "),
        ("--style libbpf", "-       -                127.0.0.1 "),
    ):
        header, row, other, _ = show(shape, unknown, known).split("\n")
        assert row.startswith(start)
        assert row[len(start) :] == other[len(start) :]
        assert header.index("LADDR") == row.index("127.0.0.1")
