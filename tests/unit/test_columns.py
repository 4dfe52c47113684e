"""The columns that users choose: -x, -o, and what each shows where."""

from __future__ import annotations

import csv
import gc
import io
import json
import re
import sys
from collections.abc import Callable, Iterator

import pytest

from tcplife.cli import host
from tcplife.cli import tcplife as command
from tcplife.columns import values
from tcplife.columns.sessions import EXTENDED, SESSION_COLUMNS
from tcplife.errors import UsageError
from tcplife.records import abi

from .records import CGROUPS, Session, Show

NEVER = (1 << 64) - 1
# As long as each value gets within its column.
WIDEST = Session(
    pid=99_999,
    comm=b"fifteen-chars.x",
    laddr="255.255.255.255",
    lport=65_535,
    raddr="255.255.255.254",
    rport=65_534,
    tx_bytes=99_999 << 10,
    rx_bytes=99_998 << 10,
    span_us=99_999_990,
    end=2,
    connect_us=99_999_980,
    open_us=99_999_970,
    close_us=99_999_960,
    srtt_us=999_990,
    min_rtt_us=9_999_980,
    retrans=9_999,
    retrans_bytes=9_999_999,
    lost_bytes=9_999_998,
    unread_bytes=99_999_999,
    mss=65_483,
    segs_in=9_999_999,
    segs_out=99_999_999,
    error=110,
    uid=0,
    ppid=4_194_304,
    cgroup=2,
    before=1,
)
SESSIONS = [Session(), WIDEST, Session(cgroup=2, tx_bytes=1 << 20, end=3, dir=2)]
# Those that a user may name.
NAMED = {
    name: column
    for name, column in SESSION_COLUMNS.items()
    if column.key or name == "elapsed"
}


def spans(line: str) -> list[tuple[int, int]]:
    return [found.span() for found in re.finditer(r"\S+", line)]


def assert_lined_up(text: str, titles: int) -> None:
    """Each cell begins where its title does, or ends where that ends."""
    header, *rows = map(spans, text.splitlines())
    assert len(header) == titles
    for row in rows:
        assert len(row) == titles
        for (start, end), (cell_start, cell_end) in zip(header, row, strict=True):
            assert start == cell_start or end == cell_end


@pytest.mark.parametrize("options", ["", "-w", "-a", "-T", "-t", "-tT -a"])
def test_extended_lines_up(options: str, show: Show) -> None:
    # A > takes its place.
    span_us = 9_999_990 if "-a" in options else WIDEST.span_us
    sessions = [session._replace(span_us=span_us) for session in SESSIONS]
    text = show(f"-x {options}", *sessions)
    front = sum(letter in options for letter in "tT")
    usual = 10 if "-w" in options else 9
    assert_lined_up(text, front + usual + len(EXTENDED))


@pytest.mark.parametrize("options", ["-x", "-x -a"])
def test_extended_fits_160_columns(options: str, show: Show) -> None:
    text = show(options, WIDEST, WIDEST._replace(before=0))
    assert 150 < max(map(len, text.splitlines())) <= 160


@pytest.mark.parametrize(
    ("options", "session"),
    [
        ("-x", Session(span_us=3_600_000_000)),  # an hour
        ("-x", Session(connect_us=127_000_000, end=6)),  # no answer to any SYN
        ("-x -a", Session(span_us=60_000_000, before=1)),
        ("-x --style libbpf", Session(tx_bytes=1_234)),
        ("-x --style bt", Session(span_us=1_234_000, life_us=1_234_567)),
    ],
)
def test_extended_lines_up_always(options: str, session: Session, show: Show) -> None:
    text = show(options, session)
    assert_lined_up(text, 9 + len(EXTENDED))


@pytest.mark.parametrize(
    "options",
    [
        "-x",
        "-x --style libbpf",
        "-x --style bt",
        "--style bt -o +errno",
        "--style bt",
        "--style libbpf -w",
        "-o ms",
        "-o ms,pid",
    ],
)
def test_lifespans_are_marked_in_every_layout(options: str, show: Show) -> None:
    older, open_still, newer = (
        show(f"{options} -a", Session(before=before, end=end)).splitlines()[1]
        for before, end in ((1, 1), (0, 0), (0, 1))
    )
    assert older.count(">") == open_still.count(">") == 1
    assert newer == show(options, Session()).splitlines()[1]


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("options", ["", "-w"])
def test_each_column_lines_up_alone(name: str, options: str, show: Show) -> None:
    """Its title has room, and what follows stands where it should."""
    # A path may be of any length.
    cgroup = 1 if name == "cgroup" else WIDEST.cgroup
    sessions = (session._replace(cgroup=cgroup) for session in SESSIONS)
    other = "rport" if name == "lport" else "lport"
    text = show(f"-o {name},{other} {options}", *sessions)
    assert_lined_up(text, 2)
    titles = [SESSION_COLUMNS[name].title, other.upper()]
    assert text.splitlines()[0].split() == titles


def test_columns_are_those_chosen_and_in_their_order(show: Show) -> None:
    text = show("-s -o rport,end -o pid", Session(rport=80, pid=7, end=4))
    assert text == "RPORT,END,PID\n80,refused,7\n"


@pytest.mark.parametrize("options", ["", "-w", "-s", "--style bt", "-x"])
def test_plus_puts_them_behind_the_usual_ones(options: str, show: Show) -> None:
    usual = show(options, WIDEST).splitlines()
    more = show(f"{options} -o +errno,+mss", WIDEST).splitlines()
    separator = "," if options == "-s" else None
    for line, longer, last in zip(
        usual, more, (["ERRNO", "MSS"], ["ETIMEDOUT", str(WIDEST.mss)]), strict=True
    ):
        assert longer.split(separator) == [*line.split(separator), *last]


@pytest.mark.parametrize("name", [name for name in NAMED if NAMED[name].key])
def test_keys_are_names_and_case_does_not_matter(name: str, show: Show) -> None:
    """By the keys of JSON, as well as by the names in `--columns help`."""
    key = NAMED[name].key
    text = show(f"-s -o {name}", WIDEST)
    assert show(f"-s -o {key}", WIDEST) == text
    assert show(f"-s -o {key.upper()}", WIDEST) == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("-o pid,comm,PID", "-o/--columns pid,comm,PID: pid is there already"),
        ("-o pid -o pid", "-o/--columns pid,pid: pid is there already"),
        ("-x -o +dir", "-o/--columns +dir: dir is there already"),
        ("-T -o time,pid", "-T/--time with -o time: leave one of them out"),
        ("-t -o +elapsed", "-t/--timestamp with -o elapsed: leave one of them out"),
    ],
)
def test_a_column_is_shown_once(options: str, message: str, show: Show) -> None:
    with pytest.raises(UsageError) as raised:
        show(options, Session())
    assert str(raised.value) == message


def test_aliases() -> None:
    names = "TX_BYTES, rx_bytes "
    assert command._column_names(names, (), SESSION_COLUMNS) == ["tx", "rx"]
    assert command._column_names("+tx_bytes", ["pid"], SESSION_COLUMNS) == ["pid", "tx"]


@pytest.mark.parametrize(
    "text",
    ["nonsense", "pid,", ",pid", "+", "pid;ms", "tx_parts", "whole_ms", "pid ms", "*"],
)
def test_unknown_names_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not a column; `--columns help` lists"):
        command._column_names(text, ["pid"], SESSION_COLUMNS)


Run = Callable[[str], int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    def traces(*_: object, **__: object) -> None:
        pytest.fail("it was accepted")

    def run(arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["tcplife", *arguments.split(" ")])
        return command.main()

    monkeypatch.setattr(host, "trace", traces)
    yield run
    gc.enable()


@pytest.mark.parametrize("text", ["pid,nonsense", "\x1b[31m", "help,pid"])
def test_unknown_name_is_told_in_one_line(
    text: str, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(f"-o {text}") == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("tcplife: -o/--columns ")
    assert err.endswith("`--columns help` lists them\n")
    assert err[:-1].isprintable()


@pytest.mark.parametrize("option", ["-o", "--columns"])
def test_help_lists_each_with_unit_and_meaning(
    option: str, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(f"{option} help") == 0
    out, err = capfd.readouterr()
    assert err == ""
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    assert [name for name, _ in lines] == list(NAMED)
    for (_, text), column in zip(lines, NAMED.values(), strict=True):
        assert column.meaning in text
        assert text.endswith(f" [{column.unit}]" if column.unit else column.meaning)
    assert len({column.meaning for column in NAMED.values()}) == len(NAMED)


@pytest.mark.parametrize(
    ("prefix", "enum", "names"),
    [
        ("DIR_", abi.DIR, values.DIRS),
        ("END_", abi.END, values.ENDS),
        ("FIRST_", abi.FIRST, values.FIRSTS),
    ],
)
def test_names_are_those_of_the_kernels_side(
    prefix: str, enum: dict[str, int], names: tuple[str | None, ...]
) -> None:
    expected = {
        prefix + (name or "unknown").upper().replace("-", "_"): number
        for number, name in enumerate(names)
    }
    assert list(enum.items()) == list(expected.items())


def test_failed_is_every_end_that_is_none() -> None:
    from tcplife.filters.parse import FAILED

    assert [values.ENDS[number] for number in FAILED] == [
        end for end in values.ENDS if end not in ("open", "closed")
    ]


# A path -> as tables and CSV show it; JSON has it as it is.
ESCAPED = {
    "/two\nlines\x1b[31m": r"/two\nlines\x1b[31m",
    "/\x9b31m\x7f\u202e": r"/\x9b31m\x7f\u202e",
    '/a,b "c"\t': r'/a,b "c"\t',
    "/{key} %s %d": "/{key} %s %d",
    "/naïve-Ω": "/naïve-Ω",
    # A byte that is no UTF-8, as os.fsdecode() has it
    "/caf\udcc3": r"/caf\udcc3",
    r"/machine.slice/machine-\x1b\x5b31m.scope": (
        r"/machine.slice/machine-\x1b\x5b31m.scope"
    ),
}


@pytest.mark.parametrize("path", ESCAPED)
def test_cgroups_names_are_escaped(
    path: str, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CGROUPS, 77, path)
    session = Session(cgroup=77)
    machine = r"\x1b[31m" if "machine-" in path else ""

    text = show("-o cgroup,container,lport", session)
    assert text.replace("\n", "").isprintable()
    assert text.count("\n") == 2
    assert text.splitlines()[1] == (
        f"{ESCAPED[path]:<40} {machine or '-':<12} {session.lport:<5}"
    )

    text = show("-s -o cgroup,container,pid", session)
    assert text.replace("\n", "").isprintable()
    [_, row] = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert row == [ESCAPED[path], machine, "4321"]

    text = show("--json", session)
    assert text.isascii()
    assert text.count("\n") == 1
    found = json.loads(text)
    assert found["cgroup"] == path
    assert found["container"] == (machine.encode().decode("unicode_escape") or None)


def test_other_names_are_escaped(show: Show) -> None:
    session = Session(comm=b"\x1b]0;a,b\x07", cc=b"\x1b[1m,\xff")
    assert show("-s -o comm,cc", session).splitlines()[1] == (
        r'"\x1b]0;a,b\x07","\x1b[1m,\xff"'
    )
    assert show("-o cc,comm", session).splitlines()[1] == r"\x1b[1m,\xff \x1b]0;a,b"
    found = json.loads(show("--json", session))
    assert (found["comm"], found["cc"]) == ("\x1b]0;a,b\x07", "\x1b[1m,\\xff")


# Of a session of which nothing is known that need not be.
UNKNOWN = Session(
    pid=0,
    dir=0,
    first=0,
    error=0,
    connect_us=NEVER,
    open_us=999,
    srtt_us=0,
    min_rtt_us=(1 << 32) - 1,
    uid=0,
    cgroup=404,
    cc=b"",
)
NULLABLE = {
    *("pid", "comm", "dir", "first", "errno", "connect_ms", "rtt_ms", "min_rtt_ms"),
    *("tx_rate", "rx_rate", "cc", "uid", "user", "ppid", "cgroup", "container", "pod"),
}


@pytest.mark.parametrize("name", NAMED)
def test_null(name: str, show: Show) -> None:
    null = name in NULLABLE
    for options in ("", "-w"):
        table = show(f"{options} -o {name}", UNKNOWN).splitlines()
        assert (table[1].strip() == "-") is null
    assert (show(f"-s -o {name}", UNKNOWN).splitlines()[1] == "") is null
    # Nor does the order in which they come matter.
    for sessions in ([UNKNOWN, WIDEST], [WIDEST, UNKNOWN]):
        other = "rport" if name == "lport" else "lport"
        rows = show(f"-s -o {name},{other}", *sessions).splitlines()[1:]
        index = sessions.index(UNKNOWN)
        assert (rows[index] == f",{getattr(UNKNOWN, other)}") is null
        assert not rows[1 - index].startswith(",") or name == "pod"


def test_null_in_json(show: Show) -> None:
    found = json.loads(show("--json", UNKNOWN))
    assert {key for key, value in found.items() if value is None} == NULLABLE
    known = Session(
        error=110,
        open_us=1_000,
        cgroup=3,
    )
    with pytest.MonkeyPatch.context() as patch:
        uid = "01234567_89ab_cdef_0123_456789abcdef"
        patch.setitem(CGROUPS, 3, f"/kubepods/pod{uid}/crio-{'0a' * 32}")
        found = json.loads(show("--json", known))
    assert {key for key, value in found.items() if value is None} == set()


def test_units(show: Show) -> None:
    """Of what tables and JSON show differently."""
    session = Session(
        tx_bytes=10_239, rx_bytes=2_048, open_us=2_000, time_ns=0, netns=7
    )
    text = show("-s -o tx,rx,tx_rate,rx_rate,open_ms,netns,ms", session)
    assert text.splitlines()[1] == "9,2,4999.5,1000.0,2.00,7,1.00"
    found = json.loads(show("--json", session))
    assert (found["tx_bytes"], found["tx_rate"]) == (10_239, 5_119_500)
    assert (found["rx_bytes"], found["rx_rate"]) == (2_048, 1_024_000)
