"""How the tool starts, delivers, and ends."""

from __future__ import annotations

import csv
import ctypes
import json
import os
import pty
import re
import resource
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from .blind import played_again_if_blind
from .hosts import available_tiers
from .netns import Network
from .remote import Remote
from .scenarios import Key, Stage, connect, part
from .tracer import OURS, Tracer, ours, wait_until

# The sessions here are between this process and itself, on the host's loopback
# device; others' are none of our business.
MINE = ("-p", str(os.getpid()))


def play(sessions: int) -> set[Key]:
    """Open and close sessions; return their ends."""
    keys: set[Key] = set()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(sessions):
            with socket.create_connection(listener.getsockname()) as client:
                here, there = client.getsockname(), client.getpeername()
                listener.accept()[0].close()
                # Only now, so that the server closes first and has its row, too.
                assert client.recv(1) == b""
            keys |= {here + there, there + here}
    return keys


def after_start(tracer: Tracer) -> list[str]:
    """What came on standard error since the tool said that it traces."""
    first = next(n for n, line in enumerate(tracer.errors, 1) if "tracing" in line)
    return tracer.errors[first:]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_with_all_rows_out(number: signal.Signals) -> None:
    with ours("--json", *MINE) as tracer:
        keys = play(50)
        assert tracer.stop(number) == 0
        assert tracer.rows().keys() == keys
        assert after_start(tracer) == []


def test_closed_pipe_ends_it_quietly() -> None:
    """As under `| head -n 2`."""
    reading, writing = os.pipe()
    with (
        open(reading, "rb") as reader,
        open(writing, "wb") as writer,
        ours("--json", *MINE, stdout=writer) as tracer,
    ):
        writer.close()
        play(1)
        assert [reader.readline()[:1] for _ in range(2)] == [b"{", b"{"]
        reader.close()
        play(1)
        assert tracer.finish() == 0
        assert after_start(tracer) == []


def test_full_disk_is_one_line_and_status_1() -> None:
    with (
        open("/dev/full", "wb") as full,
        ours("--json", *MINE, stdout=full) as tracer,
    ):
        play(1)
        assert tracer.finish() == 1
        assert len(after_start(tracer)) == 1


@pytest.mark.parametrize("tier", available_tiers())
def test_sigkill_leaves_nothing_in_the_kernel(tier: int) -> None:
    libbpf = ctypes.CDLL("libbpf.so.1")

    def exists(kind: str, number: int) -> bool:
        # Not by a descriptor of it: that would be a reference, and to drop the last
        # one of an array of programs takes work that holds another (kernel/bpf/
        # arraymap.c, prog_array_map_clear()).
        found = ctypes.c_uint32()
        next_id = getattr(libbpf, f"bpf_{kind}_get_next_id")
        next_id(number - 1, ctypes.byref(found))
        return found.value == number

    with ours("--json", "--tier", str(tier), *MINE) as tracer:
        fdinfo = Path(f"/proc/{tracer.process.pid}/fdinfo")
        text = "\n".join(path.read_text() for path in fdinfo.iterdir())
        objects = [
            (kind, int(number))
            for kind, number in re.findall(r"^(prog|map|link)_id:\t(\d+)$", text, re.M)
        ]
        # Of kprobes, links have shown since Linux 5.15.
        links = {"link"} if tier < 4 else set()
        assert {"prog", "map"} | links <= {kind for kind, _ in objects}
        assert all(exists(*each) for each in objects)
        tracer.stop(signal.SIGKILL)
    wait_until(lambda: not any(exists(*each) for each in objects), "left in the kernel")


def test_two_copies_both_see_all() -> None:
    with ours("--json", *MINE) as one, ours("--json", *MINE) as other:
        keys = play(50)
        for tracer in (one, other):
            assert tracer.stop() == 0
            assert tracer.rows().keys() == keys


def test_count_leaves_after_that_many_rows() -> None:
    with ours("--json", "-c", "3", *MINE) as tracer:
        keys = play(5)
        assert tracer.finish() == 0
        assert len(tracer.lines) == 3
        assert tracer.rows().keys() < keys


def test_duration_leaves_by_itself() -> None:
    with ours("--json", "--duration", "1", *MINE) as tracer:
        began = time.monotonic()
        keys = play(1)
        assert tracer.finish() == 0
        # It counts from a moment before it said that it traces.
        assert 0.5 < time.monotonic() - began < 3
        assert tracer.rows().keys() == keys


@contextmanager
def output(kind: str, folder: Path) -> Iterator[tuple[int, int]]:
    """Descriptors to write to and to read from, without waiting."""
    if kind == "file":
        path = folder / "rows"
        writing = os.open(path, os.O_WRONLY | os.O_CREAT)
        reading = os.open(path, os.O_RDONLY)
    else:
        reading, writing = os.pipe() if kind == "pipe" else pty.openpty()
    os.set_blocking(reading, False)
    try:
        yield writing, reading
    finally:
        os.close(writing)
        os.close(reading)


@pytest.mark.parametrize("layout", [(), ("-s",), ("--json",)], ids=" ".join)
@pytest.mark.parametrize("kind", ["pipe", "file", "pty"])
def test_rows_come_within_200_ms(
    kind: str, layout: tuple[str, ...], tmp_path: Path
) -> None:
    delays = []
    shown = b""

    def shows(ports: set[int]) -> bool:
        nonlocal shown
        with suppress(BlockingIOError):
            shown += os.read(reading, 1 << 16)
        return ports <= {int(number) for number in re.findall(rb"\b\d+\b", shown)}

    with (
        output(kind, tmp_path) as (writing, reading),
        ours(*layout, *MINE, stdout=writing) as tracer,
    ):
        for _ in range(9):
            ports = {lport for _, lport, _, _ in play(1)}
            ended = time.monotonic()
            wait_until(partial(shows, ports), "no row")
            delays.append(time.monotonic() - ended)
        assert tracer.stop() == 0
    # The machine may be slow now and then; the tool may not.
    assert statistics.median(delays) < 0.2


NAMES = [
    b"plain",
    b'com,ma "quote"',
    b"\x1b[31mred\x1b[0m",
    b"tab\tcr\rdel\x7f",
    b"new\nline",
    b"\xc2\x9b31m",  # CSI as one C1 control character, in UTF-8
    b"\xff\xfebad\x9b",
    "naïve-ü".encode(),
    b"back\\slash\\x1b",
]


@pytest.fixture(scope="module")
@played_again_if_blind
def named(network: Network) -> Iterator[dict[str, list[str]]]:
    """The lines in each layout, for sessions of processes with awkward names."""
    with ExitStack() as stack:
        stage = Stage(network, "ipv4")
        stack.callback(stage.close)
        server = stage.server()
        clients = []
        for name in NAMES:
            client = Remote(network.client, os.fsdecode(name))
            stack.callback(client.close)
            clients.append(client)
        pids = ",".join(str(client.pid) for client in clients)
        tracers = {
            layout: stack.enter_context(ours(layout, "-p", pids))
            for layout in ("-w", "-s", "--json")
        }
        for client in clients:
            part(client, connect(stage, client, server).server)
        for tracer in tracers.values():
            assert tracer.stop() == 0
        yield {layout: tracer.lines for layout, tracer in tracers.items()}


@pytest.mark.parametrize("layout", ["-w", "-s", "--json"])
def test_no_control_character_gets_out(
    named: dict[str, list[str]], layout: str
) -> None:
    lines = [os.fsencode(line).decode() for line in named[layout]]
    assert len(lines) == len(NAMES) + (layout != "--json")
    assert all(line.isprintable() for line in lines)


def test_csv_of_awkward_names_is_valid(named: dict[str, list[str]]) -> None:
    header, *rows = csv.reader(named["-s"], strict=True)
    assert {len(row) for row in rows} == {len(header)}
    assert [row[1] for row in rows][:2] == ["plain", 'com,ma "quote"']


def test_json_of_awkward_names_is_valid(named: dict[str, list[str]]) -> None:
    decodable = {}
    for name, line in zip(NAMES, named["--json"], strict=True):
        comm = json.loads(line)["comm"]
        try:
            decodable[name.decode()] = comm
        except UnicodeDecodeError:
            assert comm.endswith("bad\\x9b")
    assert list(decodable.values()) == list(decodable)


def test_without_permission_it_says_what_is_missing() -> None:
    done = subprocess.run(
        ["setpriv", "--bounding-set=-bpf,-perfmon,-sys_admin", *OURS],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "sudo" in line
    assert "CAP_BPF" in line
    assert "CAP_PERFMON" in line


def test_two_capabilities_are_enough() -> None:
    prefix = ("setpriv", "--inh-caps=-all", "--bounding-set=-all,+bpf,+perfmon")
    with ours("--json", *MINE, prefix=prefix) as tracer:
        status = Path(f"/proc/{tracer.process.pid}/status").read_text()
        assert "CapBnd:\t000000c000000000\n" in status
        keys = play(3)
        assert tracer.stop() == 0
        assert tracer.rows().keys() == keys


@pytest.mark.parametrize("files", [8, 20, 30, 40])
@pytest.mark.parametrize("options", [(), ("-a",), ("--summary",)], ids=" ".join)
def test_few_descriptors_are_named_as_the_cause(
    options: tuple[str, ...], files: int
) -> None:
    """At whatever step they run out; 30 are enough for some options."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    argv = [*OURS, *options, "--duration", "0.1", *MINE]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=60, check=False, preexec_fn=limit
    )
    if done.returncode == 0:
        assert files >= 30
        return
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"no more than {files} files may be open" in done.stderr
    assert "`ulimit -n 1024`" in done.stderr
