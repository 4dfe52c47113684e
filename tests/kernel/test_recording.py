"""Recordings of the real kernel: however the recorder ends, and whatever it lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tcplife.recording.reader import open_recording

from .netns import Network
from .scenarios import SCENARIOS, Stage
from .test_lifecycle import after_start, play
from .tracer import OURS, STATES, Tracer, ours, wait_until

MINE = ("-p", str(os.getpid()))


def replay(
    *arguments: object, tool: tuple[str, ...] = OURS
) -> tuple[int, list[Any], str]:
    """Exit status, the objects, and what is told."""
    done = subprocess.run(
        [*tool[:3], "--json", "--replay", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, found, done.stderr


def complaints(tracer: Tracer) -> list[str]:
    """What it has told since it traces, but for what -v does."""
    return [line for line in after_start(tracer) if "privileges kept" not in line]


def keys(found: list[Any]) -> Counter[tuple[Any, ...]]:
    names = ("laddr", "lport", "raddr", "rport", "pid", "end", "tx_bytes", "rx_bytes")
    return Counter(tuple(session[name] for name in names) for session in found)


def whole_records(path: Path) -> int:
    """How many are in whole blocks, by the container alone."""
    recording, _ = open_recording(str(path))
    return sum(len(batch) for batch in recording.batches())


def play_until_written(path: Path, sessions: int) -> None:
    """Sessions, until there is a block with some."""
    size = path.stat().st_size
    play(sessions)
    wait_until(lambda: path.stat().st_size > size, "no block")


def wait_for_files(folder: Path, count: int) -> None:
    wait_until(lambda: len(list(folder.iterdir())) >= count, "no further file")


@contextmanager
def mixed_load(network: Network) -> Iterator[None]:
    """Sessions of many kinds: they are played once within the context."""
    for name in ("no_bytes", "client_half_closes", "refused", "client_killed"):
        for family in ("ipv4", "ipv6"):
            stage = Stage(network, family)
            SCENARIOS[name](stage)
            stage.close()
    yield


def test_what_is_recorded_is_what_is_shown(network: Network, tmp_path: Path) -> None:
    """In all columns, but that each tracer has read the clock by itself."""
    path = tmp_path / "it"
    subnets = f"{network.client.ipv4},{network.server.ipv4}"
    with (
        ours("--json", "--laddr", subnets) as live,
        ours("--record", str(path), "--laddr", subnets) as recorder,
    ):
        with mixed_load(network):
            assert recorder.stop() == 0
            assert live.stop() == 0
        assert recorder.lines == []
        assert complaints(recorder) == complaints(live) == []
    shown = [json.loads(line) for line in live.lines]
    status, found, told = replay(path)
    assert (status, told) == (0, "")
    assert len(found) > 5
    assert keys(found) == keys(shown)
    exact = {"dir", "first", "errno", "user", "uid", "ppid", "netns", "cgroup", "comm"}
    for name in exact:
        assert Counter(s[name] for s in found) == Counter(s[name] for s in shown)


def test_names_are_resolved_at_once(network: Network, tmp_path: Path) -> None:
    """The cgroup is gone by the time of the replay."""
    from tcplife.columns.cgroup_paths import mount_point

    root = mount_point()
    assert root
    folder = Path(root, f"tcplife-recording-{os.getpid()}")
    path = tmp_path / "it"
    stage = Stage(network, "ipv4")
    folder.mkdir()
    try:
        with ours("--record", str(path), "--laddr", network.client.ipv4) as recorder:
            client, server = stage.client(), stage.server()
            (folder / "cgroup.procs").write_text(str(client.pid))
            port = server.call("listen", "l", network.server.ipv4, 0)
            client.call("connect", "s", network.server.ipv4, port)
            client.call("close", "s")
            stage.close()
            wait_until(lambda: not (folder / "cgroup.procs").read_text(), "it lives")
            folder.rmdir()
            assert recorder.stop() == 0
    finally:
        stage.close()
        if folder.exists():
            folder.rmdir()
    _, found, _ = replay(path)
    assert [session["cgroup"] for session in found] == [f"/{folder.name}"]
    _, found, _ = replay(path, "--cgroup", folder.name)
    assert len(found) == 1


def test_killed_it_has_every_session_of_each_whole_block(
    network: Network, tmp_path: Path
) -> None:
    path = tmp_path / "it"
    subnets = f"{network.client.ipv4},{network.client.ipv6},127.0.0.0/8"
    with (
        ours("--json", "--laddr", subnets) as live,
        ours("--record", str(path), "--laddr", subnets) as recorder,
    ):
        with mixed_load(network):
            for _ in range(3):
                # Over a second, so that there are blocks.
                play_until_written(path, 300)
            recorder.stop(signal.SIGKILL)
        assert live.stop() == 0
    status, found, told = replay(path)
    assert status == 1
    assert told == f"tcplife: {path}: cut short after {len(found)} whole records\n"
    assert len(found) == whole_records(path) >= 600
    # All of the live rows of ours, as far as it goes; others may use 127/8, too.
    shown = [json.loads(line) for line in live.lines]
    found, shown = (
        [s for s in each if s["pid"] == os.getpid() or s["laddr"][:4] != "127."]
        for each in (found, shown)
    )
    assert len(found) >= 1200
    assert keys(found) <= keys(shown)
    last = max(session["time"] for session in found[:1200])
    assert keys([s for s in shown if s["time"] < last]) - keys(found) == Counter()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
    subprocess.run(command, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_what_is_there_is_whole(small_disk: Path) -> None:
    path = small_disk / "it"
    (small_disk / "filler").write_bytes(bytes(200 << 10))
    with ours("--record", str(path), *MINE) as recorder:
        wait_until(lambda: path.exists() and path.stat().st_size > 0, "no header")
        deadline = time.monotonic() + 60
        while recorder.process.poll() is None and time.monotonic() < deadline:
            play(200)
        assert recorder.finish() == 1
        (line,) = complaints(recorder)
    assert line == (
        f"tcplife: cannot write the recording {path}: No space left on device;"
        " what is there already can be replayed"
    )
    status, found, told = replay(path)
    assert status == 1
    assert len(found) == whole_records(path) > 0
    assert told == f"tcplife: {path}: cut short after {len(found)} whole records\n"


def test_rotation_loses_nothing_at_the_seams(tmp_path: Path) -> None:
    path = tmp_path / "it"
    with (
        ours("--json", *MINE) as live,
        ours(
            "--record", str(path), "--rotate", "1s", "--rotate", "64K", *MINE
        ) as recorder,
    ):
        for n in range(1, 4):
            play(200)
            wait_for_files(tmp_path, n + 1)
        assert recorder.stop(signal.SIGTERM) == 0
        assert live.stop() == 0
    found_files = sorted(tmp_path.iterdir())
    assert len(found_files) >= 4
    status, found, told = replay(*found_files)
    assert (status, told) == (0, "")
    assert keys(found) == keys([json.loads(line) for line in live.lines])
    assert len(found) == 1200
    # Each is complete by itself.
    assert sum(len(replay(each)[1]) for each in found_files) == 1200


def test_keep_leaves_the_latest(tmp_path: Path) -> None:
    path = tmp_path / "it"
    options = ("--rotate", "1s", "--keep", "2")
    with ours("--record", str(path), *options, *MINE) as recorder:
        wait_until(lambda: (tmp_path / "it.000004").exists(), "it does not rotate")
        keys_of_last = play(5)
        assert recorder.stop() == 0
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    _, found, _ = replay(*files)
    assert {
        (s["laddr"], s["lport"], s["raddr"], s["rport"]) for s in found
    } == keys_of_last


def test_a_loss_in_the_middle_is_told_at_its_place(tmp_path: Path) -> None:
    """While the recorder is stopped, the ring buffer runs full."""
    path = tmp_path / "it"
    with ours("--record", str(path), *MINE) as recorder:
        play_until_written(path, 50)
        recorder.process.send_signal(signal.SIGSTOP)
        play(8000)  # 16,000 records; there is room for 9,709
        recorder.process.send_signal(signal.SIGCONT)
        wait_until(lambda: any("lost" in line for line in recorder.errors), "no loss")
        play_until_written(path, 50)
        assert recorder.stop() == 0
        live_words = [line for line in recorder.errors if "lost" in line][-1]
    recording, _ = open_recording(str(path))
    batches = list(recording.batches())
    # None at first, then some, and records before and behind.
    assert batches[0].loss.total() == 0
    assert len(batches[0]) > 0
    assert recording.loss.events > 0
    assert batches[-1].loss.events == recording.loss.events
    status, found, told = replay(path)
    assert status == 0
    assert told.splitlines()[-1] == live_words
    assert len(found) == 2 * 8100 - recording.loss.events


def test_from_one_to_the_other_through_a_pipe() -> None:
    """ssh host tcplife --record - | tcplife --replay -"""
    argv = [*OURS[:3], "--replay", "-", "--json"]
    reading, writing = os.pipe()
    with (
        open(writing, "wb") as into,
        ours("--record", "-", *MINE, stdout=into) as recorder,
    ):
        into.close()
        with subprocess.Popen(argv, stdin=reading, stdout=subprocess.PIPE) as shown:
            os.close(reading)
            assert shown.stdout
            wanted = play(20)
            # They come while it goes on.
            lines = [json.loads(shown.stdout.readline()) for _ in range(40)]
            found = {(s["laddr"], s["lport"], s["raddr"], s["rport"]) for s in lines}
            assert found == wanted
            assert recorder.stop() == 0
            assert shown.stdout.read() == b""
            assert shown.wait() == 0


def test_a_reader_that_leaves_ends_it_quietly() -> None:
    reading, writing = os.pipe()
    with (
        open(writing, "wb") as into,
        ours("--record", "-", *MINE, stdout=into) as recorder,
    ):
        into.close()
        assert os.read(reading, 8)
        os.close(reading)
        assert recorder.finish() == 0
        assert complaints(recorder) == []


def test_state_changes(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "it"
    port = "2950"
    with (
        ours("--json", "-L", port, tool=STATES) as live,
        ours("--record", str(path), "-L", port, tool=STATES) as recorder,
    ):
        stage = Stage(network, "ipv4")
        link_port = int(port)
        client, server = stage.client(), stage.server()
        server.call("listen", "l", stage.listen_host, link_port)
        client.call("connect", "s", stage.connect_host, link_port)
        client.call("close", "s")
        stage.close()
        assert recorder.stop() == 0
        assert live.stop() == 0
    shown = [json.loads(line) for line in live.lines]
    status, found, told = replay(path, tool=STATES)
    assert (status, told) == (0, "")
    names = ("skaddr", "oldstate", "newstate", "pid", "c_pid", "c_comm")
    assert [[c[n] for n in names] for c in found] == [
        [c[n] for n in names] for c in shown
    ]
    assert len(found) > 3


def test_a_folder_of_another_user_as_under_sudo(tmp_path: Path) -> None:
    """Root gives up what it needs for that, once it has its files."""
    folder = tmp_path / "home"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    for options in ((), ("--rotate", "1s")):
        path = folder / f"it{len(options)}"
        with ours("--record", str(path), *options, *MINE) as recorder:
            wait_for_files(folder, len(options) + 1)
            assert recorder.stop() == 0


def test_it_is_no_text_for_a_terminal() -> None:
    main, terminal = os.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "tcplife", "--record", "-"],
        stdout=terminal,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    os.close(main)
    os.close(terminal)
    assert done.returncode == 2
    assert done.stderr.startswith("tcplife: --record -: ")
