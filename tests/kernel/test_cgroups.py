"""Where a session's owner was, though that is gone when its row is read."""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from . import cgroup
from .netns import PREFIX, Host, Network
from .remote import close_nursery
from .scenarios import Key, Link, Stage, connect, part
from .tracer import OURS, Tracer, ours, wait_until

CONTAINER = "0123456789abcdef" * 4
POD = "01234567-89ab-cdef-0123-456789abcdef"
SCOPE = f"docker-{CONTAINER}.scope"
POD_SLICE = f"kubepods-burstable-pod{POD.replace('-', '_')}.slice"

# A path below the test's own cgroup, and what it says.
SHAPES: dict[str, tuple[str | None, str | None]] = {
    SCOPE: (CONTAINER, None),
    f"kubepods.slice/{POD_SLICE}/cri-containerd-{CONTAINER}.scope": (CONTAINER, POD),
    "session-1.scope": (None, None),
    # Anybody who may make cgroups names them.
    '\x1b[31m,"quoted" {key} %s \t': (None, None),
}

COLUMNS = "pid,cgroup,container,pod,netns"


@pytest.fixture
def folder() -> Iterator[Path]:
    with cgroup.folder("containers") as path:
        yield path


@contextmanager
def container(path: Path, number: int) -> Iterator[tuple[Stage, int]]:
    """A cgroup and a network namespace; both are removed at the end.

    Gives the stage for what goes on within, and the inode of its namespace.
    """
    path.mkdir(parents=True)
    try:
        with loopback_only(number) as made:
            yield made
    finally:
        cgroup.remove(path)


@contextmanager
def loopback_only(number: int) -> Iterator[tuple[Stage, int]]:
    """A network namespace, whose processes have ended before it goes."""
    namespace = f"{PREFIX}{os.getpid()}-container-{number}"
    # Addresses follow the PID, as in netns.
    address = f"127.{1 + (os.getpid() >> 8 & 127)}.{os.getpid() & 255}.{200 + number}"
    host = Host(namespace, address, "::1")
    stage = Stage(Network(host, host), "ipv4")
    ip("netns", "add", namespace)
    try:
        ip("-n", namespace, "link", "set", "lo", "up")
        # So that connects come from there, too.
        ip("-n", namespace, "addr", "add", address, "dev", "lo")
        yield stage, os.stat(f"/run/netns/{namespace}").st_ino
    finally:
        stage.close()
        close_nursery(host)
        ip("netns", "del", namespace)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def begin(path: Path, stage: Stage) -> Link:
    """A session of which both ends are in a cgroup."""
    client, server = stage.client(), stage.server()
    cgroup.join(path, client.pid, server.pid)
    link = connect(stage, client, server)
    link.exchange()
    return link


@contextmanager
def unread(*tracers: Tracer) -> Iterator[None]:
    """Meanwhile they read nothing."""
    pids = [tracer.process.pid for tracer in tracers]
    for tracer in tracers:
        tracer.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: set(map(state_of, pids)) == {"T"}, "it does not stop")
    try:
        yield
    finally:
        for tracer in tracers:
            tracer.process.send_signal(signal.SIGCONT)


def state_of(pid: int) -> str:
    """proc_pid_stat(5)"""
    return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0]


# What there is already when the trace begins.
@pytest.mark.parametrize("before", ["nothing", "containers", "sessions"])
def test_container_that_is_gone_is_named(folder: Path, before: str) -> None:
    paths = [folder / shape for shape in SHAPES]
    with ExitStack() as containers, ExitStack() as tracers:

        def make_all() -> list[tuple[Stage, int]]:
            return [
                containers.enter_context(container(path, number))
                for number, path in enumerate(paths)
            ]

        def begin_all() -> list[Link]:
            return [
                begin(path, stage) for path, (stage, _) in zip(paths, made, strict=True)
            ]

        if before != "nothing":
            made = make_all()
        if before == "sessions":
            links = begin_all()
        json_lines, csv_lines = (
            tracers.enter_context(ours("-a", *options))
            for options in (("--json",), ("-s", "-o", COLUMNS))
        )
        with unread(json_lines, csv_lines):
            if before == "nothing":
                made = make_all()
            if before != "sessions":
                links = begin_all()
            for link in links:
                part(link.client, link.server)
            containers.close()
            for path in paths:
                assert not path.exists()
            for stage, _ in made:
                namespace = stage.network.client.namespace
                assert not Path("/run/netns", namespace).exists()
        ends = [link.ends() for link in links]
        assert json_lines.wait_for_ends(itertools.chain(*ends))
        assert json_lines.stop() == csv_lines.stop() == 0

    rows = {key_of(row): row for row in map(json.loads, json_lines.lines)}
    cells = {row[0]: row[1:] for row in csv.reader(csv_lines.lines, strict=True)}
    for path, pair, (_, inode) in zip(paths, ends, made, strict=True):
        container_id, pod = SHAPES[str(path.relative_to(folder))]
        place = cgroup.below_root(path)
        for end in pair:
            row = rows[end.key]
            assert [row[name] for name in ("pid", *COLUMNS.split(",")[1:])] == [
                *(end.pid, place, container_id, pod, inode)
            ]
            assert cells[str(end.pid)] == [
                place.encode("unicode_escape").decode(),
                (container_id or "")[:12],
                pod or "",
                str(inode),
            ]


def key_of(row: dict[str, Any]) -> Key:
    return row["laddr"], row["lport"], row["raddr"], row["rport"]


# Below the folder asked for, or beside it; made before the trace, or within.
BELOW = {"": "before", "old": "before", "new": "within", "old/new/newer": "within"}
BESIDE = {"../beside": "before", "../wanted-too": "within", "..": "before"}


@pytest.mark.parametrize("given", ["path", "folder"])
def test_filter_takes_in_what_is_made_below(folder: Path, given: str) -> None:
    wanted = folder / "wanted"
    path = cgroup.below_root(wanted) if given == "path" else str(wanted)
    with ExitStack() as stack, loopback_only(0) as (stage, _):
        for name in BELOW | BESIDE:
            if (BELOW | BESIDE)[name] == "before":
                (wanted / name).mkdir(parents=True, exist_ok=True)
        everything = stack.enter_context(ours("--json"))
        filtered = stack.enter_context(ours("--json", "--cgroup", path))
        ends = {}
        for name in BELOW | BESIDE:
            (wanted / name).mkdir(parents=True, exist_ok=True)
            link = begin(wanted / name, stage)
            part(link.client, link.server)
            ends[name] = link.ends()
        assert everything.wait_for_ends(itertools.chain(*ends.values()))
        assert everything.stop() == filtered.stop() == 0
    keys = Counter(key_of(json.loads(line)) for line in filtered.lines)
    assert keys == Counter(end.key for name in BELOW for end in ends[name])
    rows = {key_of(row): row for row in map(json.loads, everything.lines)}
    for name, pair in ends.items():
        place = cgroup.below_root(Path(os.path.normpath(wanted / name)))
        assert [rows[end.key]["cgroup"] for end in pair] == [place] * 2


def test_filter_of_a_container_that_is_gone(folder: Path) -> None:
    """It is made, used and removed while the tracer reads nothing."""
    with ours("--json", "--cgroup", str(folder)) as tracer:
        with unread(tracer), container(folder / SCOPE, 0) as (stage, _):
            link = begin(folder / SCOPE, stage)
            part(link.client, link.server)
        assert tracer.wait_for_ends(link.ends())
        assert tracer.stop() == 0
    rows = [json.loads(line) for line in tracer.lines]
    assert sorted(map(key_of, rows)) == sorted(end.key for end in link.ends())
    assert {row["container"] for row in rows} == {CONTAINER}


def test_sessions_that_are_open_are_placed(folder: Path) -> None:
    """Of an owner that has done nothing with them since the trace began."""
    path = folder / SCOPE
    with container(path, 0) as (stage, inode):
        link = begin(path, stage)
        argv = [*OURS, "--open", "--json", "--cgroup", str(path)]
        done = subprocess.run(argv, capture_output=True, check=True, timeout=30)
    rows = {key_of(row): row for row in map(json.loads, done.stdout.splitlines())}
    assert set(rows) == {end.key for end in link.ends()}
    for end in link.ends():
        row = rows[end.key]
        found = (row["pid"], row["cgroup"], row["container"], row["netns"])
        assert found == (end.pid, cgroup.below_root(path), CONTAINER, inode)
