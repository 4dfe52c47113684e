"""Recordings: what is written is what is read, however they are damaged."""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tcplife.columns import values
from tcplife.errors import OutputError, RecordingError, UsageError
from tcplife.recording import container, files, reader, writer
from tcplife.recording.files import Series
from tcplife.recording.reader import open_recording
from tcplife.recording.writer import Writer
from tcplife.records.batch import Loss
from tcplife.records.wire import STORY

from .recordings import LOOKUPS, batch, frames, opened, record, replayed, told
from .records import WALL_OFFSET, Session, pack

GOLDEN = Path(__file__).parents[1] / "golden"


def some(chance: random.Random, count: int, after: int = 0) -> list[Session]:
    """Sessions of all kinds, one after the other."""
    never = (1 << 64) - 1
    return [
        Session(
            time_ns=5_000_000_000 + (after + n) * 1_000_000,
            pid=chance.choice((0, 7, chance.randrange(1 << 22))),
            comm=chance.choice((b"a", b"\xff\x1b,", b"")),
            laddr=chance.choice(("10.0.0.1", "2001:db8::1")),
            lport=chance.getrandbits(16),
            rport=chance.choice((443, chance.getrandbits(16))),
            tx_bytes=chance.getrandbits(chance.randint(1, 63)),
            dir=chance.randrange(3),
            end=chance.randrange(len(values.ENDS)),
            first=chance.randrange(4),
            error=chance.choice((0, 104, 111)),
            connect_us=chance.choice((chance.getrandbits(12), never)),
            uid=chance.choice((0, 1000, 4294967295)),
            cgroup=chance.choice((1, 2, 99)),
            before=chance.randrange(2),
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_what_is_written_is_read(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    batches = []
    loss = Loss()
    written = 0
    for _ in range(chance.randint(1, 12)):
        count = chance.choice((0, 1, 2, 7, 500, 3000))
        loss = chance.choice((loss, Loss(loss.events + 1, 2, 3)))
        offset = WALL_OFFSET + chance.choice((0, 0, 10**9))
        sessions = some(chance, count, written)
        batches.append(batch(*sessions, offset=offset, loss=loss))
        written += count
    found, recording = replayed(record(tmp_path / "it", batches).read_bytes())
    assert found == frames(batches)
    assert repr(recording.loss) == repr(loss)
    assert recording.problem() is None
    assert recording.records == written
    assert (recording.host, recording.scope) == ("here", "new")


def test_names_are_those_of_the_traced_host(tmp_path: Path) -> None:
    path = record(
        tmp_path / "it", [batch(Session(uid=0, cgroup=2), Session(uid=99999))]
    )
    _, recording = replayed(path.read_bytes())
    assert recording.cgroup_path(2) == LOOKUPS["cgroup_path"](2)
    assert recording.cgroup_path(12345) is None
    assert [recording.user_name(uid) for uid in (0, 99999)] == ["root", "99999"]


def test_regular_records_take_little(tmp_path: Path) -> None:
    """As of one client that asks one server."""
    chance = random.Random(1)
    sessions = [
        Session(
            time_ns=10**12 + n * 200_000 + chance.randrange(50_000),
            lport=20000 + n % 40000,
            span_us=chance.randrange(80, 300),
            life_us=chance.randrange(80, 300),
            open_us=chance.randrange(80, 300),
            close_us=chance.randrange(20, 60),
        )
        for n in range(8192)
    ]
    path = record(tmp_path / "it", [batch(*sessions)])
    assert path.stat().st_size / len(sessions) < 20


# ---- damage


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[bytes]]:
    """A recording of a few blocks, and its records."""
    chance = random.Random(5)
    batches = [
        batch(*some(chance, 3, 3 * n), offset=WALL_OFFSET + n * 10**9, loss=Loss(n))
        for n in range(4)
    ]
    path = record(tmp_path_factory.mktemp("small") / "it", batches)
    return path.read_bytes(), [struct.pack("q", o) + f for o, f in frames(batches)]


def read(data: bytes) -> tuple[list[bytes], str | None]:
    """The records that are told as good, and what is told of the rest."""
    try:
        found, recording = replayed(data)
    except RecordingError as error:
        return [], str(error)
    return [struct.pack("q", o) + f for o, f in found], recording.problem()


def is_part(found: list[bytes], whole: list[bytes]) -> bool:
    """Whether all of them are records, each at most once, in their order."""
    rest = iter(whole)
    return all(record in rest for record in found)


def test_cut_anywhere_it_is_read_up_to_there(small: tuple[bytes, list[bytes]]) -> None:
    data, whole = small
    counts = set()
    for length in range(len(data)):
        found, problem = read(data[:length])
        assert found == whole[: len(found)]
        assert problem
        counts.add(len(found))
    assert counts == {0, 3, 6, 9, 12}
    assert read(data) == (whole, None)


def test_no_flipped_byte_makes_a_wrong_record(small: tuple[bytes, list[bytes]]) -> None:
    data, whole = small
    most = 0
    for at in range(len(data)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[at] ^= flip
            found, problem = read(bytes(damaged))
            assert is_part(found, whole), at
            assert problem, at
            most = max(most, len(found))
    # One block's records are lost, not those behind it.
    assert most == len(whole)


@pytest.mark.parametrize("seed", range(300))
def test_no_other_damage_does(small: tuple[bytes, list[bytes]], seed: int) -> None:
    """Pieces that are lost, twice there, elsewhere, or noise."""
    data, whole = small
    chance = random.Random(seed)
    places = sorted(chance.randrange(len(data) + 1) for _ in range(3))
    a, b, c = (data[i:j] for i, j in zip([0, *places], places, strict=False))
    rest = data[places[-1] :]
    noise = chance.randbytes(chance.randrange(1, 60))
    damaged = chance.choice(
        (a + c + rest, a + b + b + c + rest, a + c + b + rest, a + noise + c + rest)
    )
    found, problem = read(damaged)
    assert is_part(found, whole)
    if damaged != data:
        assert problem


def blocks_of(data: bytes) -> list[bytes]:
    """The preamble with the header, then each block."""
    starts = [at for at in range(len(data)) if data.startswith(container.MARK, at)]
    return [
        data[i:j]
        for i, j in zip([0, *starts[1:]], [*starts[1:], len(data)], strict=True)
    ]


@pytest.mark.parametrize("drop", [1, 2, 3])
def test_a_block_that_is_missing_is_told(
    small: tuple[bytes, list[bytes]], drop: int
) -> None:
    """As a file has it whose sectors were lost: all that is there is whole."""
    parts = blocks_of(small[0])
    del parts[drop]
    found, problem = read(b"".join(parts))
    assert is_part(found, small[1])
    assert problem
    assert "damaged" in problem


def test_the_rest_is_found_behind_damage(small: tuple[bytes, list[bytes]]) -> None:
    data, whole = small
    parts = blocks_of(data)
    noisy = b"".join([*parts[:3], b"\0" * 5000, container.MARK * 9, *parts[3:]])
    assert (
        read(noisy)
        == (
            whole,
            f"it: 1 damaged place, at byte {sum(map(len, parts[:3]))}, left out",
        )
        or read(noisy)[0] == whole
    )


def crafted(kind: int, raw: bytes, /, **changes: int) -> bytes:
    """A block with right checksums, whatever it says."""
    head = {"stored": 0, "raw": len(raw), **changes}
    stored = zlib.compress(raw, 9)
    packed = container._HEAD.pack(
        container.MARK,
        kind,
        container.ZLIB,
        0,
        1,
        head["stored"] or len(stored),
        head["raw"],
        zlib.crc32(stored),
    )
    return packed + struct.pack("<I", zlib.crc32(packed)) + stored


PREFIX = container._PREFIX
SIZE = STORY.stride - 8
CRAFTED = {
    "more than it says": crafted(container.RECORDS, bytes(20 << 20), raw=100),
    "longer than may be": crafted(container.RECORDS, b"", stored=(1 << 32) - 1),
    "larger than may be": crafted(container.RECORDS, b"", raw=(1 << 32) - 1),
    "records without end": crafted(
        container.RECORDS, PREFIX.pack(0, (1 << 32) - 1, 0, 0, 0, 0) + bytes(2 * SIZE)
    ),
    "as many as fit": crafted(
        container.RECORDS, PREFIX.pack(0, 65536, 0, 0, 0, 0) + bytes(2 * SIZE)
    ),
    "planes of no kind": crafted(
        container.RECORDS, PREFIX.pack(0, 1, 0, 0, 0, 0) + b"\2" * SIZE + bytes(SIZE)
    ),
    "names that are none": crafted(container.NAMES, b'{"cgroup": 5}'),
    "names without end": crafted(
        container.NAMES, b'{"uid": {"' + b"9" * 100000 + b'": "x"}}'
    ),
    "a number without end": crafted(container.END, b"9" * 1000000),
    "nested": crafted(container.NAMES, b"[" * 200000),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_what_is_crafted_takes_neither_memory_nor_time(
    small: tuple[bytes, list[bytes]], name: str
) -> None:
    begin = blocks_of(small[0])[0]
    tracemalloc.start()
    found, problem = read(begin + CRAFTED[name])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (found, bool(problem)) == ([], True)
    assert peak < 64 << 20


def test_the_values_there_are() -> None:
    """A new one in values.py may come out of a recording."""
    tables = {"dir": values.DIRS, "end": values.ENDS, "first": values.FIRSTS}
    limits = {name: len(table) for name, table in tables.items()}
    limits["before"] = len(values.BORN)
    assert {"time_ns": 16, **limits} == container.LIMITS


@pytest.mark.parametrize("name", container.LIMITS)
def test_a_value_that_cannot_be_is_damage(
    small: tuple[bytes, list[bytes]], name: str
) -> None:
    """With it, some column would have nothing to show."""
    body = bytearray(bytes(pack(Session(), wire=STORY))[8:])
    fields = list(STORY.fields)
    codes = "".join(STORY.fields[each] for each in fields[: fields.index(name) + 1])
    last = struct.calcsize("=" + codes) - 1
    found = []
    for value in (container.LIMITS[name] - 1, container.LIMITS[name]):
        body[last] = value
        raw = PREFIX.pack(0, 1, 0, 0, 0, 0) + bytes(SIZE) + body
        data = blocks_of(small[0])[0] + crafted(container.RECORDS, raw)
        records, problem = read(data)
        found.append((len(records), "damaged" in str(problem)))
    assert found == [(1, False), (0, True)]


BEGIN = container.preamble()
UNREADABLE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "empty"),
    "text": (b"PID   COMM   LADDR\n" * 9, "no recording"),
    "newer": (container.MAGIC + b"\2\0\0\0" + b"whatever", "of format 2"),
    "no header": (BEGIN, "header"),
    "half": (BEGIN + container.pack_block(container.HEADER, 0, b"{}")[:-1], "header"),
    "others' header": (
        BEGIN + container.pack_block(container.HEADER, 0, b'{"records": {}}'),
        "does not understand",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_none_of_ours_is_said_so(name: str, tmp_path: Path) -> None:
    data, message = UNREADABLE[name]
    path = tmp_path / "it"
    path.write_bytes(data)
    with pytest.raises(RecordingError) as raised:
        open_recording(str(path))
    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def changed(**changes: object) -> bytes:
    given = {**told(), "part": 0, "clocks": {"realtime": 0}, **changes}
    block = container.pack_block(container.HEADER, 0, json.dumps(given).encode())
    return BEGIN + block


FIELDS = list(STORY.fields.items())


@pytest.mark.parametrize(
    "records",
    [
        {"sender": "nobody", "fields": FIELDS},
        {"sender": STORY.sender, "fields": FIELDS[:-1]},
        {"sender": STORY.sender, "fields": []},
        {"sender": STORY.sender, "fields": [*FIELDS, ("more", "999999999s")]},
        {"sender": STORY.sender, "fields": [*FIELDS, ("more", "4096s")]},
        {"sender": STORY.sender, "fields": [("time_ns", "16s"), *FIELDS[1:]]},
        {"sender": STORY.sender},
        {},
        None,
    ],
)
def test_records_of_a_layout_that_cannot_be(records: object) -> None:
    with pytest.raises(RecordingError, match="does not understand"):
        opened(changed(records=records))


def test_fields_that_a_newer_version_added_are_left_out() -> None:
    """Wherever they stand."""
    fields = [("newer", "Q"), *FIELDS[:5], ("more", "16s"), *FIELDS[5:]]
    data = changed(records={"sender": STORY.sender, "fields": fields})
    session = Session()
    body = bytes(pack(session, wire=STORY))[8:]
    at = sum(struct.calcsize("=" + code) for _, code in FIELDS[:5])
    body = bytes(8) + body[:at] + b"x" * 16 + body[at:]
    raw = PREFIX.pack(7, 1, 0, 0, 0, 0) + bytes(len(body)) + body
    data += container.pack_block(container.RECORDS, 1, raw)
    found, _ = replayed(data)
    assert found == [(7, bytes(pack(session, wire=STORY)))]


# ---- files


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 16 records."""
    monkeypatch.setattr(writer, "BLOCK", 16)


def series(path: Path, keep: int | None, **limits: float) -> list[Path]:
    """The files of a long recording."""
    loss = Loss(5)
    target = Series(str(path), keep)
    given = {"max_bytes": int(limits["bytes"])} if "bytes" in limits else {}
    sink = Writer(STORY, told(), target.next, **given, max_seconds=None)
    chance = random.Random(3)
    for n in range(40):
        sink.write(batch(*some(chance, 16, 16 * n), loss=loss))
    sink.close()
    return sorted(path.parent.glob(f"{path.name}.*"))


@pytest.mark.usefixtures("at_once")
def test_rotation_leaves_whole_files_that_sort_by_time(tmp_path: Path) -> None:
    found = series(tmp_path / "it", None, bytes=8192)
    assert [path.name for path in found[:2]] == ["it.000001", "it.000002"]
    assert len(found) > 3
    records = []
    for path in found:
        assert path.stat().st_size <= 8192
        some_records, recording = replayed(path.read_bytes())
        assert recording.problem() is None
        # Each has the names that it needs.
        assert recording.cgroup_path(2)
        records += some_records
    chance = random.Random(3)
    whole = [batch(*some(chance, 16, 16 * n)) for n in range(40)]
    assert records == frames(whole)


@pytest.mark.usefixtures("at_once")
def test_keep_removes_the_oldest_and_numbers_go_on(tmp_path: Path) -> None:
    first = series(tmp_path / "it", 3, bytes=8192)
    assert len(first) == 3
    second = series(tmp_path / "it", 3, bytes=8192)
    assert len(second) == 3
    assert second[0] > first[-1]


def test_rotation_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("tcplife.recording.writer.time.monotonic", lambda: now[0])
    target = Series(str(tmp_path / "it"), None)
    sink = Writer(STORY, told(), target.next, max_seconds=60)
    for _ in range(5):
        sink.write(batch(Session()))
        now[0] += 30
        sink.write(batch())
    sink.close()
    found = sorted(tmp_path.iterdir())
    counts = [len(replayed(path.read_bytes())[0]) for path in found]
    assert counts == [2, 2, 1]


def test_a_record_waits_a_second_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("tcplife.recording.writer.time.monotonic", lambda: now[0])
    path = tmp_path / "it"
    sink = Writer(STORY, told(), files.One(str(path)).next)
    sink.write(batch(Session()))
    assert len(replayed(path.read_bytes())[0]) == 0
    now[0] += writer.PATIENCE + 0.01
    sink.write(batch())
    assert len(replayed(path.read_bytes())[0]) == 1
    # What was lost is told without waiting.
    sink.write(batch(loss=Loss(7)))
    assert replayed(path.read_bytes())[1].loss.events == 7
    sink.close()


def test_what_finds_no_room_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "it"
    sink = Writer(STORY, told(), files.One(str(path)).next)
    sink.write(batch(*some(random.Random(1), writer.BLOCK)))
    whole = path.stat().st_size

    def half(fd: int, data: bytes) -> None:
        os.write(fd, data[: len(data) // 2])
        raise OutputError("cannot write the output: No space left on device")

    monkeypatch.setattr(writer, "write_all", half)
    with pytest.raises(OutputError, match=rf"recording {path}: No space left"):
        sink.write(batch(*some(random.Random(1), writer.BLOCK)))
    sink.close()
    assert path.stat().st_size == whole
    found, recording = replayed(path.read_bytes())
    assert len(found) == writer.BLOCK
    assert recording.problem() == f"it: cut short after {writer.BLOCK} whole records"


def test_a_file_that_exists_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"kept")
    with pytest.raises(UsageError, match=f"--record {path}: it exists; .* --force"):
        files.One(str(path))
    target = files.One(str(path), force=True)
    # Until there is a header to write: tracing may not begin.
    assert path.read_bytes() == b"kept"
    Writer(STORY, told(), target.next).close()
    assert path.read_bytes().startswith(container.MAGIC)


def test_what_is_no_regular_file_needs_no_force(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    for path in ("/dev/null", str(fifo)):
        Writer(STORY, told(), files.One(path).next).close()
    assert os.read(reader, 8) == container.MAGIC
    os.close(reader)


def test_a_folder_and_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="directory"):
        files.One(str(tmp_path))
    for make in (files.One, lambda path: Series(path, None)):
        opening: Callable[[str], object] = make
        with pytest.raises((OutputError, FileNotFoundError)) as raised:
            opening(str(tmp_path / "none" / "it"))
        assert isinstance(raised.value, OutputError)


def test_what_was_there_stays_until_something_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_bytes(b"an older one")
    for name in ("it", "new"):
        target = files.One(str(tmp_path / name), force=True)
        target.discard()
    assert [each.name for each in tmp_path.iterdir()] == ["it"]
    assert path.read_bytes() == b"an older one"
    (tmp_path / "it.000001").write_bytes(b"older")
    Series(str(path), 1).discard()
    assert (tmp_path / "it.000001").read_bytes() == b"older"
    sink = Writer(STORY, told(), files.One(str(path), force=True).next)
    sink.write(batch(Session()))
    sink.close()
    found, recording = replayed(path.read_bytes())
    assert (len(found), recording.problem()) == (1, None)


def test_standard_output_is_added_to(tmp_path: Path) -> None:
    """As under >> or behind other output."""
    path = tmp_path / "it"
    path.write_bytes(b"before")
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    sink = Writer(STORY, told(), lambda: (fd, ""))
    sink.write(batch(Session()))
    sink.close()
    data = path.read_bytes()
    assert data.startswith(b"before")
    assert len(replayed(data.removeprefix(b"before"))[0]) == 1


# ---- memory


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    chance = random.Random(1)
    block = batch(*some(chance, writer.BLOCK))
    peaks = []
    for count in (4, 80):
        path = record(tmp_path / f"{count}", [block] * count)
        for options in (["--json"], ["--summary", "--by", "lport"], ["-p", "5"]):
            program = (
                "import resource, sys; from tcplife.cli.tcplife import main;"
                " status = main();"
                " peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
                " print(peak, file=sys.stderr); sys.exit(status)"
            )
            argv = [sys.executable, "-c", program, "--replay", str(path), *options]
            done = subprocess.run(
                argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=120
            )
            assert done.returncode == 0, done.stderr
            peaks.append(int(done.stderr.split()[-1]))
    for before, after in zip(peaks[:3], peaks[3:], strict=True):
        assert after < before + 24 * 1024  # KiB; the longer one has 70 MB of records


def test_names_that_never_end_are_forgotten() -> None:
    recording = opened(changed())
    for n in range(0, 200000, 1000):
        told_names = {str(n + i): "/x" * 1000 for i in range(1000)}
        recording._learn({"cgroup": told_names})
    names = recording._names["cgroup"]
    assert len(names) == reader._NAMES
    assert max(map(len, names.values())) == reader._NAME_LENGTH
