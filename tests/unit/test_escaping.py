"""Process names that somebody chose with ill intent, or none, in each output."""

from __future__ import annotations

import csv
import io
import json

import pytest

from .records import Session, Show

# name -> how tables and CSV show it
ESCAPED = {
    b"\x1b[31mred": r"\x1b[31mred",
    b"\x1b]0;title\x07": r"\x1b]0;title\x07",
    b"two\nlines": r"two\nlines",
    b"back\r\bspace": r"back\r\x08space",
    b"tab\tbed": r"tab\tbed",
    b"\x7f": r"\x7f",
    b"\x01" * 15: r"\x01" * 15,
    # Not UTF-8: alone, cut short, overlong, a surrogate
    b"\xff\xfe": r"\xff\xfe",
    b"caf\xc3": r"caf\xc3",
    b"\xc0\xaf": r"\xc0\xaf",
    b"\xed\xa0\x80": r"\xed\xa0\x80",
    # C1 controls: CSI as a byte, and as UTF-8
    b"\x9b31m": r"\x9b31m",
    "\u009b31m".encode(): r"\x9b31m",
    # What turns the direction of text, hides, or breaks lines
    "\u202egnp.exe".encode(): r"\u202egnp.exe",
    "\u2066x\u2069".encode(): r"\u2066x\u2069",
    "\u200b\ufeff".encode(): r"\u200b\ufeff",
    "\u2028\u00a0".encode(): r"\u2028\xa0",
    "\U000e0041".encode(): r"\U000e0041",
    # Nothing wrong with these
    "naïve-Ω".encode(): "naïve-Ω",
    b'a,b "c"': 'a,b "c"',
    b"$HOME; %s %d": "$HOME; %s %d",
    b"{key} {0}": "{key} {0}",
    b"back\\slash": "back\\slash",
    b" spaces ": " spaces ",
    b"": "",
}
# Of every byte but NUL, at which a name ends.
EVERY_BYTE = [bytes([byte, 0x41]) for byte in range(1, 256)]
NAMES = [*ESCAPED, *EVERY_BYTE]
SESSIONS = [Session(comm=name) for name in NAMES]


@pytest.mark.parametrize(
    ("shape", "start", "width"),
    [("", 6, 10), ("-w", 6, 16), ("--style bt", 6, 10), ("--style libbpf", 8, 16)],
)
def test_table_is_printable_and_keeps_its_columns(
    shape: str, start: int, width: int, show: Show
) -> None:
    header, *rows = show(shape, *SESSIONS).split("\n")
    assert header[start:].startswith("COMM ")
    assert rows.pop() == ""
    plain = show(shape, Session(comm=b"")).split("\n")[1]
    for name, row in zip(NAMES, rows, strict=True):
        assert row.isprintable()
        shown = f"{printed(name)[:width]:<{width}}"
        assert row == plain[:start] + shown + plain[start + width :]


@pytest.mark.parametrize("times", ["", "-t -T"])
def test_csv_is_read_back(times: str, show: Show) -> None:
    text = show(f"-s {times}", *SESSIONS)
    assert text.replace("\n", "").isprintable()
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    expected = ["4", "127.0.0.1", "40000", "127.0.0.2", "443", "0", "0", "1.00"]
    front = len(times.split())
    assert [row[front:] for row in rows[1:]] == [
        ["4321", printed(name), *expected] for name in NAMES
    ]
    titles = "PID,COMM,IP,LADDR,LPORT,RADDR,RPORT,TX_KB,RX_KB,MS"
    assert ",".join(rows[0][front:]) == titles


def test_csv_quotes_where_it_must(show: Show) -> None:
    names = {b"a,b": '"a,b"', b'"': '""""', b"a b": "a b", b"'": "'"}
    lines = show("-s", *(Session(comm=name) for name in names)).splitlines()
    for line, quoted in zip(lines[1:], names.values(), strict=True):
        assert line.startswith(f"4321,{quoted},4,127.0.0.1,")


def test_json_is_read_back(show: Show) -> None:
    """JSON holds the name itself; only bytes that are no text stay escapes."""
    *lines, nothing = show("--json", *SESSIONS).split("\n")
    assert nothing == ""
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert [json.loads(line)["comm"] for line in lines] == [
        name.decode("utf-8", "backslashreplace") for name in NAMES
    ]


def test_what_is_behind_a_names_end_is_not_shown(show: Show) -> None:
    session = Session(comm=b"sh\0et-secret")
    assert show("-s", session).splitlines()[1].startswith("4321,sh,4,")
    assert json.loads(show("--json", session))["comm"] == "sh"


def printed(name: bytes) -> str:
    """As ESCAPED says, or of a single byte."""
    if name in ESCAPED:
        return ESCAPED[name]
    byte = name[0]
    short = {9: r"\t", 10: r"\n", 13: r"\r"}
    if byte in short:
        return short[byte] + "A"
    return name.decode() if 0x20 <= byte < 0x7F else f"\\x{byte:02x}A"
