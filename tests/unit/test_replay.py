"""--replay: recordings are shown, filtered, added up and converted as if traced now."""

from __future__ import annotations

import csv
import gc
import io
import json
import os
import random
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tcplife
import tcplife.export.tables
from tcplife.cli import messages, progress
from tcplife.cli import tcplife as command
from tcplife.columns import values
from tcplife.columns.objects import compile_records
from tcplife.columns.sessions import SESSION_COLUMNS
from tcplife.filters import match, parse
from tcplife.filters.filter import Filter
from tcplife.filters.select import compile_filter
from tcplife.recording import writer
from tcplife.recording.merge import RecordingSource
from tcplife.records.batch import NOWHERE, Loss, Origin
from tcplife.records.session import Session as ApiSession
from tcplife.records.wire import STORY

from .recordings import batch, record, told
from .records import CGROUPS, WALL_OFFSET, Session, Show, pack
from .test_recording import some

GOLDEN = Path(__file__).parents[1] / "golden"
SESSIONS = str(GOLDEN / "sessions.tcplife")
CHANGES = str(GOLDEN / "changes.tcplife")

# Arguments -> exit status, standard output, standard error
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tcplife", *map(str, arguments)])
        status = command.main()
        return status, *capfd.readouterr()

    yield run
    gc.enable()


@pytest.fixture
def mixed() -> list[Session]:
    return some(random.Random(7), 200)


@pytest.mark.parametrize(
    "options",
    ["", "-T", "-t", "-w", "-s", "-st", "-x", "-xs", "--style bt", "--style libbpf"],
)
@pytest.mark.usefixtures("time_zone")
def test_rows_are_those_of_tracing(
    options: str,
    mixed: list[Session],
    show: Show,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    live = show(options, *mixed, batch=33)
    path = record(tmp_path / "it", [batch(*mixed)])
    monkeypatch.setattr(messages, "STDOUT", 1)  # show() has a file for it
    status, out, err = run("--replay", path, *options.split())
    # But for names of users, which are those of the recording's host.
    assert (status, out, err) == (0, live, "")


def test_json_has_the_host_as_well(
    mixed: list[Session],
    show: Show,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    live = show("--json", *mixed)
    path = record(tmp_path / "it", [batch(*mixed)])
    monkeypatch.setattr(messages, "STDOUT", 1)
    _, out, _ = run("--replay", path, "--json")
    expected = [{**json.loads(line), "host": "here"} for line in live.splitlines()]
    assert [json.loads(line) for line in out.splitlines()] == expected


def test_what_is_older_than_the_trace_is_marked(run: Run, tmp_path: Path) -> None:
    """As with -a, of which the recording knows."""
    sessions = [Session(before=1, span_us=12340), Session(span_us=12340)]
    for scope, cells in (("all", [">12.34", "12.34"]), ("new", ["12.34", "12.34"])):
        path = record(tmp_path / scope, [batch(*sessions)], told(scope=scope))
        _, out, _ = run("--replay", path)
        assert [line.split()[-1] for line in out.splitlines()[1:]] == cells


# ---- filters


def some_filter(chance: random.Random) -> Filter:
    """One or several parts of it."""

    def port() -> tuple[int, int]:
        low = chance.randrange(65536)
        return low, chance.randrange(low, 65536)

    subnets: list[tuple[bytes, int]] = parse.parse_subnets("it", "10.0.0.0/8")
    subnets += parse.parse_subnets("it", "2001:db8::/32")
    parts: dict[str, Any] = {
        "pids": [7],
        "local_ports": [port()],
        "remote_ports": [(443, 443), port()],
        "family": chance.choice((4, 6)),
        "local_subnets": [chance.choice(subnets)],
        "remote_subnets": parse.parse_subnets("it", "127.0.0.2"),
        "comms": [b"a"],
        "uids": [chance.choice((0, 1000))],
        "namespaces": [4026531840],
        "direction": chance.choice((1, 2)),
        "ends": chance.sample(range(9), 4),
        "min_us": chance.choice((999, 1000, 1001)),
        "min_bytes": 1 << chance.randrange(62),
        "slower_connect_us": chance.randrange(1, 2000),
    }
    names = chance.sample(list(parts), chance.randint(1, 3))
    return Filter(**{name: parts[name] for name in names})


LOOKUPS: dict[str, Callable[[Any], Any]] = {
    "cgroup_path": CGROUPS.get,
    "user_name": {0: "root", 1000: "me"}.get,
}


def test_filters_are_those_of_tracing() -> None:
    """As match.matches(), which is held against the kernel's."""
    chance = random.Random(11)
    sessions = some(chance, 300)
    data = pack(*sessions, wire=STORY)
    decode = compile_records(STORY, SESSION_COLUMNS, ApiSession, "span_us", LOOKUPS)
    objects = decode(data, WALL_OFFSET)
    passed = 0
    for _ in range(300):
        wanted = some_filter(chance)
        select = compile_filter(STORY, wanted, "span_us", Origin(LOOKUPS))
        assert select
        stride = STORY.stride
        expected = b"".join(
            data[n * stride : (n + 1) * stride]
            for n, record in enumerate(objects)
            if match.matches(wanted, record)
        )
        assert bytes(select(data)) == expected
        passed += bool(expected)
    assert 50 < passed < 300


def test_no_filter_is_none() -> None:
    assert compile_filter(STORY, Filter(), "span_us", NOWHERE) is None


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ("-u root", 1),
        ("-u 0", 1),
        ("-u nobody-here", 0),
        ("-u 99999", 1),
        ("-u 99999,root", 2),
        ("--cgroup /", 2),
        ("--cgroup system.slice", 1),
        ("--cgroup /sys/fs/cgroup/system.slice", 1),
        ("--cgroup /system", 0),
        ("--netns 4026531840", 2),
        ("--netns 4026531841", 0),
        ("--min-ms 1.5", 0),
        ("--min-ms 1.5 --style bt", 2),
        ("--laddr 127.0.0.0/8 -4 --dir out --end closed -p 4321", 2),
    ],
)
def test_names_in_filters_are_the_recordings(
    options: str, kept: int, run: Run, tmp_path: Path
) -> None:
    sessions = [Session(uid=0, cgroup=2), Session(uid=99999, cgroup=1)]
    path = record(tmp_path / "it", [batch(*sessions)])
    status, out, err = run("--replay", path, *options.split())
    assert (status, len(out.splitlines()) - 1, err) == (0, kept, "")


# ---- several files


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Of two hosts, whose sessions alternate; the first one's in two files."""
    monkeypatch.setattr(writer, "_clocks", lambda: {"realtime": WALL_OFFSET})
    trace = told(host="one")
    files = []
    for n, (header, offset, seconds, loss) in enumerate(
        (
            (trace, 0, (1, 3, 5), Loss(1)),
            (trace, 0, (7, 9), Loss(3)),
            (told(host="two"), 10**9, (1, 3, 5, 7, 9), Loss(sessions=2)),
        )
    ):
        sessions = [Session(time_ns=s * 2 * 10**9, rport=s) for s in seconds]
        given = [batch(*sessions, offset=WALL_OFFSET + offset, loss=loss)]
        files.append(record(tmp_path / f"{n}", given, header))
    return files[::-1]


def test_hosts_are_merged_by_time(run: Run, three: list[Path]) -> None:
    status, out, err = run("--replay", *three, "-t")
    rows = [line.split() for line in out.splitlines()]
    assert status == 0
    assert rows[0][:2] == ["TIME(s)", "HOST"]
    assert [row[1] for row in rows[1:]] == ["one", "two"] * 5
    # Since the first row, whatever each host's own clock says.
    elapsed = [float(row[0]) for row in rows[1:]]
    assert elapsed == [float(n) for n in (0, 1, 4, 5, 8, 9, 12, 13, 16, 17)]
    # Of one trace the latest count, of two traces all.
    last = err.splitlines()[-1]
    assert last.startswith("tcplife: lost: 3 rows found the ring buffer full, 2 ")


def test_host_is_a_column(run: Run, three: list[Path]) -> None:
    files = three
    _, out, _ = run("--replay", *files, "--json")
    assert {json.loads(line)["host"] for line in out.splitlines()} == {"one", "two"}
    _, out, _ = run("--replay", files[0], "-o", "+host")
    assert {line.split()[-1] for line in out.splitlines()} == {"HOST", "two"}
    _, out, _ = run("--replay", *files, "-s")
    assert [row[0] for row in csv.reader(io.StringIO(out))][:3] == [
        "HOST",
        "one",
        "two",
    ]
    _, out, _ = run("--replay", *files, "--summary", "--by", "host")
    assert [line.split()[:2] for line in out.splitlines()[1:3]] == [
        ["one", "5"],
        ["two", "5"],
    ]


def test_only_the_files_of_one_time_are_read_at_once(tmp_path: Path) -> None:
    """So that a year of rotated files takes no more memory than a day of them."""
    paths = [
        record(
            tmp_path / f"{n}",
            [batch(*[Session(time_ns=n * 10**9 + i) for i in range(9)], offset=n)],
        )
        for n in range(50)
    ]
    replayed = RecordingSource([str(path) for path in paths], STORY.sender)
    for n, file in enumerate(replayed.files):
        file.began = n * 10**9
    opened = set()
    for each in replayed.batches():
        opened.add(each.origin)
        assert len(opened) <= each.wall_offset + 2
    assert len(opened) == 50


# ---- what cannot be read


def test_the_rest_is_shown_and_told(run: Run, tmp_path: Path) -> None:
    whole = record(tmp_path / "whole", [batch(Session()), batch(Session())])
    cut = tmp_path / "cut"
    cut.write_bytes(Path(SESSIONS).read_bytes()[:-50])
    text = tmp_path / "text"
    text.write_text("PID COMM\n")
    status, out, err = run("--replay", cut, text, whole, CHANGES, "--json")
    assert status == 1
    hosts = [json.loads(line)["host"] for line in out.splitlines()]
    assert hosts.count("here") == 2
    assert hosts.count("vm") > 10
    told_lines = err.splitlines()
    assert len(told_lines) == 3
    for path, what in ((cut, "cut short"), (text, "no recording"), (CHANGES, "tcpst")):
        assert [what for line in told_lines if str(path) in line and what in line]


BAD = {
    "--record x --replay y": "--record with --replay",
    "--record x --check": "--check",
    "--record x -x": "-x",
    "--record x --json": "--json",
    "--record x --summary": "--summary",
    "--record x -T": "-T",
    "--record x --keep 3": "--rotate",
    "--record x --format sqlite -O y": "--format",
    "--record - --rotate 1h": "--rotate",
    "--rotate 1G": "--record",
    "--record x --rotate 5": "--rotate 5",
    "--record x --rotate 1K": "--rotate 1K",
    "--record x --rotate 0h": "--rotate 0h",
    "--record x --rotate 1y": "--rotate 1y",
    "--record x --rotate 1h --keep 0": "--keep 0",
    "--format parquet -O x": "--replay",
    "-O x": "--replay",
    f"--replay {SESSIONS} -O x": "--format",
    f"--replay {SESSIONS} --format parquet": "-O",
    f"--replay {SESSIONS} --format csv -O x": "parquet",
    f"--replay {SESSIONS} --format sqlite -O -": "-O -",
    f"--replay {SESSIONS} --format sqlite -O {SESSIONS}": "exists",
    f"--replay {SESSIONS} --format sqlite -O x --json": "--json",
    f"--replay {SESSIONS} -a": "-a/--all",
    f"--replay {SESSIONS} --open": "--open",
    f"--replay {SESSIONS} --tier 1": "--tier",
    f"--replay {SESSIONS} --check": "--check",
    f"--replay {SESSIONS} --duration 3": "--duration",
    f"--replay {SESSIONS} --netns self": "--netns self",
    f"--replay {SESSIONS} -p x": "-p/--pid",
    "--replay - -": "--replay - -",
    "--replay /no/such/file": "/no/such/file",
    f"--replay {GOLDEN}": "directory",
    "--replay": "--replay",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_usage(arguments: str, run: Run) -> None:
    status, out, err = run(*shlex.split(arguments))
    assert (status, out) == (2, "")
    assert err.startswith("tcplife: ")
    assert err.count("\n") == 1
    assert BAD[arguments] in err


def test_it_takes_neither_root_nor_bpf() -> None:
    program = (
        "import sys; from tcplife.cli.tcplife import main; status = main();"
        " bad = [n for n in sys.modules if n.startswith('tcplife.kernel')];"
        " bad += {'ctypes'} & set(sys.modules);"
        " sys.exit(status or ' '.join(bad) or None)"
    )
    powerless = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    if os.geteuid():
        powerless = []
    for options in (["-x"], ["--summary"], ["--json", "-u", "root"]):
        done = subprocess.run(
            [*powerless, sys.executable, "-c", program, "--replay", SESSIONS, *options],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout


def test_through_a_pipe_rows_come_as_they_are_recorded() -> None:
    """As of a host that goes on recording."""
    data = Path(SESSIONS).read_bytes()
    with subprocess.Popen(
        [sys.executable, "-m", "tcplife", "--replay", "-", "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(data[:-300])
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["host"] == "vm"
        process.stdin.close()
        assert len(process.stdout.read().splitlines()) > 10
        assert b"standard input: cut short after" in process.stderr.read()
        assert process.wait() == 1


def test_a_bar_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    shown: list[str] = []
    monkeypatch.setattr("tcplife.cli.progress.time.monotonic", lambda: now[0])
    monkeypatch.setattr("tcplife.cli.progress.os.isatty", lambda _: True)
    monkeypatch.setattr(progress, "write_all", lambda _, text: shown.append(str(text)))
    bar = progress.Progress(1000)
    bar.see(100)
    bar.close()
    assert shown == []  # within a second there is none
    now[0] = 2.0
    bar.see(500)
    bar.see(501)
    assert len(shown) == 1
    assert "|####################                    |  50%  2 s left" in shown[0]
    bar.close()
    assert "\\x1b[K" in shown[1]
    monkeypatch.setattr("tcplife.cli.progress.os.isatty", lambda _: False)
    bar = progress.Progress(1000)
    now[0] = 5.0
    bar.see(500)
    assert len(shown) == 2


# ---- the API


def test_api() -> None:
    with tcplife.replay([SESSIONS], ends=["refused"], users=["root"]) as found:
        refused = list(found)
    assert len(refused) == 2
    assert {s.host for s in refused} == {"vm"}
    assert {s.errno for s in refused} == {"ECONNREFUSED"}
    changes = list(tcplife.replay_states([Path(CHANGES)], states=["SYN_SENT"]))
    assert {"SYN_SENT"} <= {c.newstate for c in changes}
    assert all("SYN_SENT" in (c.oldstate, c.newstate) for c in changes)
    with pytest.raises(tcplife.UsageError, match="list"):
        tcplife.replay(SESSIONS)


def test_api_tells_what_it_could_not_read(tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.write_bytes(Path(SESSIONS).read_bytes()[:-50])
    found: list[tcplife.Session] = []
    with pytest.raises(tcplife.RecordingError, match="cut short after"):
        found.extend(tcplife.replay([cut]))
    assert found


# ---- conversions


def converted(run: Run, kind: str, tmp_path: Path, *options: object) -> str:
    path = tmp_path / f"it.{kind}"
    status, out, err = run("--replay", *options, "--format", kind, "-O", path)
    assert (status, out, err) == (0, "", "")
    return str(path)


def rows_in(kind: str, path: str) -> list[dict[str, Any]]:
    if kind == "parquet":
        return pq.read_table(path).to_pylist()  # type: ignore[no-any-return]
    if kind == "arrow":
        return pa.ipc.open_file(path).read_all().to_pylist()  # type: ignore[no-any-return]
    if kind == "duckdb":
        with duckdb.connect(path) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            found = connection.sql("SELECT * FROM sessions").to_arrow_table()
            return found.to_pylist()  # type: ignore[no-any-return]
    with sqlite3.connect(path) as database:
        database.row_factory = sqlite3.Row
        found = [dict(row) for row in database.execute("SELECT * FROM sessions")]
    database.close()
    return found


@pytest.mark.parametrize("kind", ["parquet", "arrow", "duckdb", "sqlite"])
def test_conversions_have_what_json_has(kind: str, run: Run, tmp_path: Path) -> None:
    chance = random.Random(9)
    sessions = [*some(chance, 300), Session(tx_bytes=(1 << 64) - 1, cgroup=2)]
    path = record(tmp_path / "it", [batch(*sessions)], told(host="h\udcff"))
    _, out, _ = run("--replay", path, "--json")
    expected = [json.loads(line) for line in out.splitlines()]
    found = rows_in(kind, converted(run, kind, tmp_path, path))
    for row in expected:
        row["host"] = "h\\udcff"
        if kind != "sqlite":
            moment = datetime.fromisoformat(row["time"].removesuffix("Z"))
            row["time"] = moment.replace(tzinfo=timezone.utc)
        elif row["tx_bytes"] >= 1 << 63:
            row["tx_bytes"] = float(row["tx_bytes"])
    assert found == expected


def test_types_are_right(run: Run, tmp_path: Path) -> None:
    schema = pq.read_schema(converted(run, "parquet", tmp_path, SESSIONS))
    types = {name: str(schema.field(name).type) for name in schema.names}
    assert types["time"] == "timestamp[us, tz=UTC]"
    assert (types["pid"], types["lport"], types["ip"]) == ("uint32", "uint16", "uint8")
    assert (types["tx_bytes"], types["ms"]) == ("uint64", "double")
    assert (types["laddr"], types["host"]) == ("string", "string")
    assert schema.field("rtt_ms").metadata[b"unit"] == b"ms"


def test_state_changes_are_converted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tcplife.cli import tcpstates

    path = tmp_path / "it.sqlite"
    argv = ["tcpstates", "--replay", CHANGES, "--format", "sqlite", "-O", str(path)]
    monkeypatch.setattr(sys, "argv", argv)
    assert tcpstates.main() == 0
    gc.enable()
    with sqlite3.connect(path) as database:
        found = database.execute(
            "SELECT DISTINCT skaddr, newstate FROM changes WHERE ms IS NULL"
        ).fetchall()
    database.close()
    assert found
    assert all(skaddr.startswith("ffff") for skaddr, _ in found)


@pytest.mark.parametrize("kind", ["parquet", "arrow", "duckdb"])
def test_a_missing_extra_is_named(
    kind: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("arrow", "duck"):
        monkeypatch.delitem(sys.modules, f"tcplife.export.{name}", raising=False)
        monkeypatch.delattr(tcplife.export, name, raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    path = tmp_path / "it"
    status, _, err = run("--replay", SESSIONS, "--format", kind, "-O", path)
    assert status == 2
    assert f"tcplife[{kind}]" in err
    assert err.count("\n") == 1
    assert not path.exists()


@pytest.mark.parametrize("kind", ["parquet", "arrow", "duckdb", "sqlite"])
def test_a_file_that_cannot_be_made(kind: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "none" / "it"
    status, _, err = run("--replay", SESSIONS, "--format", kind, "-O", path)
    assert status == 1
    assert err.startswith(f"tcplife: cannot write {path}: ")
    assert err.count("\n") == 1


def test_an_empty_recording_is_one_line(run: Run, tmp_path: Path) -> None:
    """And no header above nothing."""
    path = tmp_path / "it"
    path.touch()
    assert run("--replay", path) == (1, "", f"tcplife: {path}: empty\n")


@pytest.mark.parametrize("kind", ["parquet", "arrow", "duckdb", "sqlite"])
def test_a_file_that_exists(kind: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_bytes(b"kept")
    arguments = ("--replay", SESSIONS, "--format", kind, "-O", path)
    status, _, err = run(*arguments)
    assert status == 2
    assert err.startswith(f"tcplife: -O/--output {path}: it exists; ")
    assert "--force" in err
    assert path.read_bytes() == b"kept"
    assert run(*arguments, "--force") == (0, "", "")
    assert path.read_bytes() != b"kept"


def test_names_of_errors_are_linux() -> None:
    import errno

    from tcplife.columns.errnos import NAMES

    assert {n: getattr(errno, name) for n, name in NAMES.items()} == {
        n: n for n in NAMES
    }
    assert values.error_name(111) == "ECONNREFUSED"
