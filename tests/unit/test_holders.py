"""Looking for owners in /proc, with a fake one, and a fake map of what is parked."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tcplife.columns import cgroup_paths
from tcplife.filters.filter import Filter
from tcplife.kernel import owners
from tcplife.kernel.owners import InProc
from tcplife.records import abi
from tcplife.records.wire import SESSION, STORY, Wire

from .records import FRAME, OWNER, Session, frame

REST = struct.Struct("=" + "".join(code for _, code in abi.PARKED[2:]))
MORE = struct.Struct("=" + "".join(code for _, code in abi.OWNER_MORE))


class FakeMap:
    """The map of parked sessions: as a program, and as libbpf's functions."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._values: dict[bytes, bytes] = {}
        # Called before a session is taken out: what may come in between.
        self.before_delete: Callable[[], None] = lambda: None

    def park(self, number: int, inode: int, waiting: int = 1, **known: Any) -> None:
        """known: fields of the session, among them what the kernel knows by then."""
        session = Session(lport=number, **known)
        more = b""
        if self._wire is STORY:
            more = MORE.pack(session.cgroup, session.uid, session.ppid)
        event = frame(session, wire=self._wire)[FRAME.size :]
        value = event + more + REST.pack(waiting, 1, inode)
        self._values[number.to_bytes(8, "little")] = value

    def resolve(self, number: int) -> None:
        """The kernel side takes it."""
        del self._values[number.to_bytes(8, "little")]

    def __len__(self) -> int:
        return len(self._values)

    def map_fd(self, name: str) -> int:
        assert name == "parked"
        return 9

    def value_size(self, name: str) -> int:
        more = MORE.size if self._wire is STORY else 0
        return self._wire.stride - FRAME.size + more + REST.size

    def bpf_map_get_next_key(self, fd: int, last: bytes | None, key: Any) -> int:
        keys = sorted(self._values)
        at = 0 if last is None else keys.index(last) + 1
        if at == len(keys):
            return -1
        key.raw = keys[at]
        return 0

    def bpf_map_lookup_elem(self, fd: int, key: bytes, value: Any) -> int:
        if key not in self._values:
            return -1
        ctypes.memmove(value, self._values[key], len(self._values[key]))
        return 0

    def bpf_map_delete_elem(self, fd: int, key: bytes) -> int:
        self.before_delete()
        return 0 if self._values.pop(key, None) else -1


class FakeProc:
    """Processes and their descriptors."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder = folder / "proc"
        self._folder.mkdir()
        (self._folder / "sys").mkdir()
        self._root = folder / "cgroup"
        self._root.mkdir()
        self.initial(True, patch)
        patch.setattr(owners, "PROC", str(self._folder))
        patch.setattr(cgroup_paths, "mount_point", lambda: str(self._root))

    def initial(self, yes: bool, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(owners, "in_container", lambda: not yes)

    def process(
        self, pid: int, *targets: str, comm: bytes = b"holder", uid: int = 0
    ) -> int:
        """Returns the ID of its cgroup."""
        folder = self._folder / str(pid)
        (folder / "fd").mkdir(parents=True)
        for number, target in enumerate(targets):
            (folder / "fd" / str(number)).symlink_to(target)
        (folder / "comm").write_bytes(comm + b"\n")
        status = f"Name:\tx\nPPid:\t7\nUid:\t{uid}\t1\t1\t1\n"
        (folder / "status").write_text(status)
        (folder / "cgroup").write_text(f"3:cpu:/a\n0::/box-{pid}\n")
        (self._root / f"box-{pid}").mkdir()
        return (self._root / f"box-{pid}").stat().st_ino


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProc:
    return FakeProc(tmp_path, monkeypatch)


class Search:
    def __init__(self, wire: Wire = SESSION, wanted: Filter | None = None) -> None:
        self.map = FakeMap(wire)
        fake: Any = self.map
        self.holders = InProc(fake, fake, wire, wanted or Filter())
        self._wire = wire

    def __call__(self, last: bool = False) -> list[dict[str, Any]]:
        """The records of a search, by their fields."""
        found = []
        for data in self.holders._walk(last):
            values = self._wire.unpacker(self._wire.fields).unpack(data)
            record = dict(zip(self._wire.fields, values, strict=True))
            pid, comm = OWNER.unpack(record["owner"])
            found.append({**record, "pid": pid, "comm": comm.rstrip(b"\0")})
        return found


def test_who_has_the_socket_open(proc: FakeProc) -> None:
    search = Search()
    search.map.park(80, inode=55, pid=0, comm=b"", tx_bytes=5)
    search.map.park(81, inode=56, pid=0, comm=b"")
    proc.process(100, "/dev/null", "socket:[54]", "pipe:[55]")
    proc.process(101, "/dev/null", "socket:[55]", comm=b"na me)")
    (record,) = search()
    assert (record["pid"], record["comm"]) == (101, b"na me)")
    assert (record["lport"], record["tx_bytes"]) == (80, 5)
    assert (search.holders.found, search.holders.blind, len(search.map)) == (1, 0, 1)
    assert search() == []


def test_who_acted_comes_before_who_holds_as_well(proc: FakeProc) -> None:
    for pid in (100, 101, 102):
        proc.process(pid, "socket:[55]")
    for acted, named in ((102, 102), (99, 100), (0, 100)):
        search = Search()
        search.map.park(80, inode=55, pid=acted, comm=b"acted")
        (record,) = search()
        assert record["pid"] == named
        assert record["comm"] == (b"acted" if acted == named else b"holder")


def test_at_last_all_are_told(proc: FakeProc) -> None:
    search = Search()
    search.map.park(80, inode=0, pid=0, comm=b"")
    search.map.park(81, inode=55, pid=50, comm=b"acted")
    proc.process(100, "socket:[56]")
    assert search() == []
    assert [record["pid"] for record in search(last=True)] == [0, 50]
    assert (search.holders.found, search.holders.blind, len(search.map)) == (2, 0, 0)


def test_what_is_taken_meanwhile_is_left(proc: FakeProc) -> None:
    """By the kernel side, which tells it: before the search takes it, or then."""
    proc.process(100, "socket:[55]")
    search = Search()
    search.map.park(80, inode=55, waiting=0)
    assert search() == []
    search.map.park(80, inode=55)
    search.map.before_delete = lambda: search.map.resolve(80)
    assert search() == []
    assert search.holders.found == 0


def test_a_cgroup_that_cannot_be_seen(proc: FakeProc, tmp_path: Path) -> None:
    proc.process(100, "socket:[55]")
    (tmp_path / "cgroup/box-100").rmdir()
    search = Search(STORY)
    search.map.park(80, inode=55, pid=0, comm=b"")
    (record,) = search()
    assert (record["pid"], record["cgroup"]) == (100, 0)


def test_another_socket_at_that_address(
    proc: FakeProc, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc.process(100, "socket:[55]")
    search = Search()
    search.map.park(80, inode=55, time_ns=1)
    looked = owners._holders

    def fake_holders(inodes: set[int]) -> tuple[dict[int, set[int]], bool]:
        search.map.park(80, inode=55, time_ns=2)
        return looked(inodes)

    monkeypatch.setattr(owners, "_holders", fake_holders)
    assert search() == []
    assert len(search.map) == 1


def test_processes_that_may_not_be_looked_into(
    proc: FakeProc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the folder (CAP_DAC_READ_SEARCH), or by what is in it (CAP_SYS_PTRACE)."""
    proc.process(100, "socket:[55]")
    for name in ("listdir", "readlink"):
        search = Search()
        search.map.park(80, inode=55, pid=0, comm=b"")
        search.map.park(81, inode=0, pid=0, comm=b"")  # held by nobody at all
        real = getattr(os, name)

        def refuse(path: str, real: Any = real) -> Any:
            if "/100/fd" in path:
                raise PermissionError(13, "Permission denied")
            return real(path)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, refuse)
            assert search() == []
            assert search.holders.blind == 0
            assert [record["pid"] for record in search(last=True)] == [0, 0]
            assert search.holders.blind == 1


def test_a_container_is_not_searched(
    proc: FakeProc, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc.process(100, "socket:[55]")
    proc.initial(False, monkeypatch)
    search = Search()
    search.map.park(80, inode=55, pid=0, comm=b"")
    assert search() == []
    assert [record["pid"] for record in search(last=True)] == [0]
    assert search.holders.blind == 1


def test_a_process_that_is_gone(
    proc: FakeProc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its name is read: its end closes the socket, and the kernel side tells."""
    proc.process(100, "socket:[55]")
    search = Search()
    search.map.park(80, inode=55, pid=3, comm=b"acted")
    real = os.readlink

    def fake_readlink(path: str) -> str:
        target = real(path)
        os.unlink(f"{owners.PROC}/100/comm")
        return target

    monkeypatch.setattr(os, "readlink", fake_readlink)
    assert search() == []
    assert len(search.map) == 1
    monkeypatch.setattr(os, "readlink", real)
    (record,) = search(last=True)
    assert (record["pid"], record["comm"]) == (3, b"acted")


def test_more_of_the_owner(proc: FakeProc) -> None:
    search = Search(STORY)
    cgroup = proc.process(100, "socket:[55]", uid=1000)
    search.map.park(80, inode=55, pid=0, comm=b"", uid=5, cgroup=6, ppid=8)
    search.map.park(81, inode=0, pid=50, comm=b"acted", uid=5, cgroup=6, ppid=8)
    found, acted = search(last=True)
    assert (found["uid"], found["ppid"], found["cgroup"]) == (1000, 7, cgroup)
    assert (acted["uid"], acted["ppid"], acted["cgroup"]) == (5, 8, 6)


@pytest.mark.parametrize(
    ("wanted", "passes"),
    [
        (Filter(pids=[100]), True),
        (Filter(pids=[50]), False),
        (Filter(comms=[b"holder"]), True),
        (Filter(comms=[b"hold"]), False),
        (Filter(uids=[1000]), True),
        (Filter(uids=[0]), False),
    ],
)
def test_filters_of_the_owner(wanted: Filter, passes: bool, proc: FakeProc) -> None:
    """They are of the owner that is found, not of who acted; one is told or not."""
    search = Search(STORY, wanted)
    proc.process(100, "socket:[55]", uid=1000)
    search.map.park(80, inode=55, pid=50, comm=b"hold", uid=0)
    assert bool(search()) == passes
    assert (search.holders.found, len(search.map)) == (1, 0)


def test_filter_of_cgroups(proc: FakeProc, tmp_path: Path) -> None:
    proc.process(100, "socket:[55]")
    (tmp_path / "cgroup/other").mkdir()
    for folder, passes in (("", True), ("box-100", True), ("other", False)):
        wanted = Filter(cgroup=str(tmp_path / "cgroup" / folder))
        search = Search(STORY, wanted)
        search.map.park(80, inode=55)
        assert bool(search()) == passes
