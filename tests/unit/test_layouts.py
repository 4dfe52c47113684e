"""Headers and rows, byte for byte, as the tools that we stand in for lay them out.

The references here are those tools' format strings, and what they do with them;
test_formats_are_the_peers_own looks the strings up in the tools themselves.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

import pytest

from tcplife.columns.compile import Memo

from .records import WALL_OFFSET, Session, Show

ROOT = Path(__file__).parents[2]
KIB, GIB = 1 << 10, 1 << 30

# bcc's tcplife: header_string and format_string.
BCC = (
    "%-5s %-10.10s %s%-15s %-5s %-15s %-5s %5s %5s %s",
    "%-5d %-10.10s %s%-15s %-5d %-15s %-5d %5d %5d %.2f",
)
BCC_WIDE = (
    "%-5s %-16.16s %-2s %-26s %-5s %-26s %-5s %6s %6s %s",
    "%-5d %-16.16s %-2s %-26s %-5s %-26s %-5d %6d %6d %.2f",
)
BCC_CSV = (
    "%s,%s,%s,%s,%s,%s,%s,%s,%s,%s",
    "%d,%s,%s,%s,%s,%s,%d,%d,%d,%.2f",
)
# Its front columns: for the headings and the clock, for the elapsed time.
BCC_FRONT = ("%-8s ", "%-9s ", "%-9.6f ")
BCC_CSV_FRONT = ("%s,", "%s,", "%.6f,")
# bpftrace's tcplife.bt; each line takes two calls of printf.
BT = (
    ("%-5s %-10s %-15s %-5s %-15s %-5s ", "%5s %5s %s"),
    ("%-5d %-10.10s %-15s %-5d %-15s %-6d ", "%5d %5d %d"),
)
# libbpf-tools' tcplife.
LIBBPF = (
    "%-7s %-16s %-*s %-5s %-*s %-5s %-6s %-6s %-s",
    "%-7d %-16s %-*s %-5d %-*s %-5d %-6.2f %-6.2f %-.2f",
)

TITLES = ("LADDR", "LPORT", "RADDR", "RPORT", "TX_KB", "RX_KB", "MS")


def sessions() -> list[Session]:
    """Borders first, then whatever comes."""
    spans = [
        *(0, 1, 5, 15, 25, 35, 45, 125, 375, 999, 1_000, 1_005, 2_675),
        *(4_095, 4_096, 4_097, 999_995, 999_999, 1_000_000, 4_095_999, 4_096_000),
        *(61_234_567, 3_600_000_000, 86_400_000_005, 86_400_000_015),
    ]
    volumes = [
        *(0, 1, 5, 1023, 1024, 1025, 1536, 4095, 4096, 4097),
        *(4095 * KIB, 4096 * KIB, 4 * GIB - 1, 4 * GIB, 4 * GIB + 1, 1 << 52),
    ]
    names = [b"curl", b"a", b"ten-chars.", b"eleven-char", b"fifteen-chars.x", b"a b c"]
    addresses = [
        ("127.0.0.1", "10.11.12.13"),
        ("192.168.100.200", "255.255.255.255"),
        ("::1", "fe80::1"),
        ("2001:db8:1234:5678:9abc:def0:1234:5678", "2001:db8::1"),
        ("::ffff:192.0.2.1", "::ffff:198.51.100.100"),
        ("::", "::1.2.3.4"),
    ]
    pids = [1, 99, 4321, 99_999, 100_000, 4_194_304]
    ports = [0, 1, 80, 8080, 10_000, 65_535]
    made = [
        *(Session(span_us=us, life_us=2 * us) for us in spans),
        *(Session(tx_bytes=n, rx_bytes=volumes[-i]) for i, n in enumerate(volumes)),
        *(Session(comm=name) for name in names),
        *(Session(laddr=laddr, raddr=raddr) for laddr, raddr in addresses),
        *(Session(pid=pid) for pid in pids),
        *(Session(lport=port, rport=65_535 - port) for port in ports),
    ]
    choose = random.Random(20161018)
    for _ in range(500):
        laddr, raddr = choose.choice(addresses)
        span = choose.randrange(10 ** choose.randrange(12))
        session = Session(
            choose.choice(pids),
            choose.choice(names),
            laddr,
            choose.choice(ports),
            raddr,
            choose.choice(ports),
            choose.randrange(1 << choose.randrange(1, 50)),
            choose.randrange(1 << choose.randrange(1, 50)),
            span_us=span,
            life_us=span + choose.randrange(10**6),
        )
        made.append(session)
    # A record may be sent a little before one that is older.
    times = [5_000_000_000 + 123_456_789 * i for i in range(len(made))]
    times[2], times[3] = times[3], times[2]
    return [s._replace(time_ns=ns) for s, ns in zip(made, times, strict=True)]


SESSIONS = sessions()


def clock(session: Session) -> str:
    zone = timezone(timedelta(hours=5, minutes=45))
    seconds = (session.time_ns + WALL_OFFSET) // 10**9
    return datetime.fromtimestamp(seconds, zone).strftime("%H:%M:%S")


def address(text: str) -> tuple[str, str]:
    """The IP version and the address as inet_ntop(3) writes it."""
    if ":" in text and not text.startswith("::ffff:"):
        return "6", inet_ntop(AF_INET6, inet_pton(AF_INET6, text))
    return "4", inet_ntop(AF_INET, inet_pton(AF_INET, text.removeprefix("::ffff:")))


# Options as letters -> the whole output
Reference = Callable[[str], str]


def written(
    options: str, front: tuple[str, str, str], header: str, rows: Iterable[str]
) -> str:
    """bcc's front columns, then what the tool makes of the others."""
    text_form, elapsed_head, elapsed_form = front
    lines = [
        (text_form % "TIME" if "T" in options else "")
        + (elapsed_head % "TIME(s)" if "t" in options else "")
        + header
    ]
    start_us = SESSIONS[0].time_ns // 1000
    for session, row in zip(SESSIONS, rows, strict=True):
        elapsed = (float(session.time_ns // 1000) - start_us) / 1000000
        lines.append(
            (text_form % clock(session) if "T" in options else "")
            + (elapsed_form % elapsed if "t" in options else "")
            + row
        )
    return "\n".join([*lines, ""])


def bcc(options: str) -> str:
    header, row = BCC_WIDE if "w" in options else BCC
    front = BCC_FRONT
    if "s" in options:
        (header, row), front = BCC_CSV, BCC_CSV_FRONT
    versioned = "w" in options or "s" in options
    rows = []
    for session in SESSIONS:
        version, raddr = address(session.raddr)
        rows.append(
            row
            % (
                session.pid,
                session.comm.decode(),
                version if versioned else "",
                address(session.laddr)[1],
                session.lport,
                raddr,
                session.rport,
                session.tx_bytes / 1024,
                session.rx_bytes / 1024,
                float(session.span_us) / 1000,
            )
        )
    titles = ("PID", "COMM", "IP" if versioned else "", *TITLES)
    return written(options, front, header % titles, rows)


def bt(options: str) -> str:
    """It has no times of its own: bcc's go in front of it."""
    header, row = map("".join, BT)
    rows = [
        row
        % (
            session.pid,
            session.comm.decode(),
            address(session.laddr)[1],
            session.lport,
            address(session.raddr)[1],
            session.rport,
            session.tx_bytes // 1024,
            session.rx_bytes // 1024,
            session.life_us // 1000,
        )
        for session in SESSIONS
    ]
    return written(options, BCC_FRONT, header % ("PID", "COMM", *TITLES), rows)


def libbpf(options: str) -> str:
    """Its -T says TIME(s) of a time of day; -t it has not got, so that is bcc's."""
    header, row = LIBBPF
    width = 26 if "w" in options else 15
    laddr, lport, raddr, *others = TITLES
    titles = ("PID", "COMM", width, laddr, lport, width, raddr, *others)
    rows = [
        row
        % (
            session.pid,
            session.comm.decode(),
            width,
            address(session.laddr)[1],
            session.lport,
            width,
            address(session.raddr)[1],
            session.rport,
            session.tx_bytes / 1024,
            session.rx_bytes / 1024,
            float(session.span_us) / 1000,
        )
        for session in SESSIONS
    ]
    text = written(options, BCC_FRONT, header % titles, rows)
    # "%8s " makes the same of a time of day as "%-8s ".
    return text.replace("TIME     ", "TIME(s)  ", 1)


STYLES: dict[str, tuple[Reference, tuple[str, ...]]] = {
    "bcc": (bcc, ("", "w", "s", "ws")),
    "bt": (bt, ("",)),
    "libbpf": (libbpf, ("", "w")),
}
TIMES = ("", "t", "T", "tT")
CASES = [
    (style, shape + times)
    for style, (_, shapes) in STYLES.items()
    for shape in shapes
    for times in TIMES
]


@pytest.mark.parametrize(("style", "options"), CASES)
def test_bytes(style: str, options: str, show: Show) -> None:
    reference, _ = STYLES[style]
    arguments = f"--style {style} " + " ".join(f"-{letter}" for letter in options)
    assert show(arguments, *SESSIONS) == reference(options)


def test_bcc_is_the_default_style(show: Show) -> None:
    assert show("", *SESSIONS) == bcc("")


def test_batches_leave_no_trace(show: Show) -> None:
    """Elapsed time counts from the first row, not from the first of a batch."""
    assert show("-tT", *SESSIONS, batch=7) == bcc("tT")


def test_what_is_remembered_has_an_end() -> None:
    made: list[int] = []

    def make(key: int) -> str:
        made.append(key)
        return str(key)

    memo = Memo(make, 10)
    for key in [*range(10), 9, *range(10, 25)]:
        assert memo[key] == str(key)
        assert len(memo) <= 10
    assert made == list(range(25))


FORMATS = {
    "tcplife-bpfcc": [*BCC, *BCC_WIDE, *BCC_CSV, *BCC_FRONT, *BCC_CSV_FRONT],
    "tcplife.bt": [*BT[0], *BT[1]],
    "tcplife": [*LIBBPF, "%-8s ", "%8s ", "TIME(s)", "%H:%M:%S"],
}


def tool(name: str) -> bytes:
    """The peer's script or program."""
    folders = (ROOT / ".test/peers/usr/sbin", Path("/usr/sbin"))
    peer = next((folder / name for folder in folders if (folder / name).exists()), None)
    if peer is None:
        pytest.fail(
            f"no {name}, to compare format strings with: run the tests by"
            f" scripts/test, which gets it (it belongs into {folders[0]})"
        )
    return peer.read_bytes()


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_the_peers_own(name: str) -> None:
    # In quotes in a script, between NULs in a program; a newline may follow.
    literal = r'["\0]{}(\\n|\n)?["\0]'
    text = tool(name).decode("latin-1")
    missing = [
        form
        for form in FORMATS[name]
        if not re.search(literal.format(re.escape(form)), text)
    ]
    assert missing == []
