"""Looking for the owners of parked sessions (see bpf/tcplife.bpf.c).

A session that ended while a process held its socket gets its owner when that
process closes it, most often at once. Where it doesn't, a walk over all open
files finds it: in the kernel or, where that has no socket storage, through /proc,
as ss -p does. The walk is dear on a host with many files, so that it is kept to a
small share of one processor.
"""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections.abc import Iterable, Iterator, Mapping

from tcplife.columns import cgroup_paths
from tcplife.filters.filter import Filter
from tcplife.kernel.libbpf import Library
from tcplife.kernel.program import LoadError, Program, Struct, read_iterator
from tcplife.kernel.shared import initial_config
from tcplife.records import abi
from tcplife.records.wire import FRAME, OWNER, STORY, Wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcplife.kernel.shared import Shared

    # Its PID, name, and struct owner_more.
    Process = tuple[int, bytes, bytes]

# How much of one processor searching may take.
SHARE = 0.02
# Seconds between searches that find nothing: at first, and at most.
PAUSE = 0.1
PAUSE_MAX = 10.0
PROC = "/proc"
PID_NAMESPACE = "/proc/self/ns/pid"
# include/linux/proc_ns.h, PROC_PID_INIT_INO: the namespace that records count in
INITIAL_PIDS = 0xEFFFFFFC


class Holders:
    """found: how many sessions were given their owner so far; blind: how many were
    told without, where not all processes could be looked into."""

    def __init__(self) -> None:
        self.blind = 0
        self._failed = False
        self._not_before = 0.0
        self._pause = PAUSE
        self._unfound = 0
        self.found = 0

    def search(self, parked: int, last: bool) -> Iterator[memoryview]:
        """The parked sessions whose owners are found, unless it is too early.

        parked: how many there are; last: search now, and give up on the rest:
        those that no descriptor leads to come without an owner.
        """
        began = time.monotonic()
        if parked > self._unfound:
            self._pause = PAUSE
            self._not_before = min(self._not_before, began + PAUSE)
        if self._failed or (began < self._not_before and not last):
            return
        before = self.found
        try:
            yield from self._walk(last)
        except LoadError:
            # Their owners will still be known when they close the sockets.
            self._failed = True
            return
        self._unfound = parked - (self.found - before)
        self._pause = PAUSE if self.found > before else min(2 * self._pause, PAUSE_MAX)
        ended = time.monotonic()
        self._not_before = ended + max(self._pause, (ended - began) / SHARE)

    def _walk(self, last: bool) -> Iterator[memoryview]:
        """Framed records; counts them in `found`."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is left behind."""


class InKernel(Holders):
    """By an iterator over open files, and one over the sockets' storage."""

    def __init__(
        self,
        library: Library,
        sessions: Program,
        shared: Shared,
        config: Mapping[str, int],
    ) -> None:
        super().__init__()
        self._library = library
        self._sessions = sessions
        self._shared = shared
        self._config = config
        self._program: Program | None = None

    def _walk(self, last: bool) -> Iterator[memoryview]:
        program = self._program = self._program or self._load()
        walk = Struct(program.variables(), abi.WALK)
        # What it closes by holding it for a moment is not its own.
        for _ in read_iterator(program.iterate("note_tool")):
            raise AssertionError("this iterator writes nothing")
        self._shared.set("tool", walk.get("tool"))
        # Who acted on the socket before, if it still holds it; else, who does.
        for any_holder in (0, 1):
            walk.set("any_holder", any_holder)
            yield from read_iterator(program.iterate("name_holders"))
        held = walk.get("found")
        if last:
            yield from read_iterator(program.iterate("write_unheld", "parked"))
        self.found = walk.get("found")
        # Only the processes of its own PID namespace are walked over
        # (kernel/bpf/task_iter.c, task_seq_get_next()).
        if in_container():
            self.blind += self.found - held
        walk.release()

    def _load(self) -> Program:
        story = self._sessions.has_map("comms")
        program = Program(self._library, "holders_full" if story else "holders")
        try:
            initial_config(program).update(self._config)
            for name in ("parked", "pids"):
                program.share_map(name, self._sessions)
            if story:
                for name in ("comms", "uids", "cgroups"):
                    program.share_map(name, self._sessions)
            program.load()
        except LoadError:
            program.close()
            raise
        return program

    def close(self) -> None:
        if self._program:
            self._program.close()


# Of struct parked, behind the event and the owner's `more`.
_REST = struct.Struct("=" + "".join(code for _, code in abi.PARKED[2:]))
_MORE = struct.Struct("=" + "".join(code for _, code in abi.OWNER_MORE))


class InProc(Holders):
    """By the descriptors in /proc, of which sockets show by their inodes."""

    def __init__(
        self, library: Library, sessions: Program, wire: Wire, wanted: Filter
    ) -> None:
        super().__init__()
        self._library = library
        self._wire = wire
        self._wanted = wanted
        self._map_fd = sessions.map_fd("parked")
        self._size = sessions.value_size("parked")

    def _walk(self, last: bool) -> Iterator[memoryview]:
        parked = [(key, value) for key in self._keys() if (value := self._value(key))]
        inodes = {inode for _, value in parked if (inode := _inode(value))}
        holders, all_seen = _holders(inodes)
        for key, value in parked:
            pids = holders.get(_inode(value), ())
            # While its session waits: if it ends now, the kernel side is who can tell.
            holder = _process(min(pids)) if pids else None
            if not holder and not last:
                continue
            # One of several that could tell its owner does: who takes it out. By now
            # another socket may be at that address.
            if self._value(key) != value:
                continue
            if self._library.bpf_map_delete_elem(self._map_fd, key):
                continue
            self.found += 1
            if _inode(value) and not pids and not all_seen:
                self.blind += 1
            size = self._wire.stride - FRAME.size
            event, more = value[:size], value[size : -_REST.size]
            record = self._record(event, more, pids, holder)
            if record is not None:
                yield memoryview(record)

    def _value(self, key: bytes) -> bytes:
        """A struct parked; empty if it does not wait any more."""
        value = ctypes.create_string_buffer(self._size)
        if self._library.bpf_map_lookup_elem(self._map_fd, key, value):
            return b""
        waiting, *_ = _REST.unpack_from(value, self._size - _REST.size)
        return value.raw if waiting else b""

    def _keys(self) -> list[bytes]:
        keys: list[bytes] = []
        key = ctypes.create_string_buffer(8)
        last = None
        while not self._library.bpf_map_get_next_key(self._map_fd, last, key):
            last = key.raw
            keys.append(last)
        return keys

    def _record(
        self, event: bytes, more: bytes, pids: Iterable[int], holder: Process | None
    ) -> bytearray | None:
        """The framed record with its owner, if that one is wanted."""
        framed = bytearray(FRAME.size) + event
        record = Struct(memoryview(framed)[FRAME.size :], self._wire.fields.items())
        pid, comm = OWNER.unpack(record.get("owner"))
        # Who acted on the socket before, if it still holds it; else, who does.
        if holder and pid not in pids:
            pid, comm, more = holder
            record.set("owner", OWNER.pack(pid, comm))
        wanted = self._wanted
        if wanted.pids and pid not in wanted.pids:
            return None
        if self._wire is STORY:
            cgroup, uid, ppid = _MORE.unpack(more)
            if wanted.comms and comm.rstrip(b"\0") not in wanted.comms:
                return None
            if wanted.uids and (not pid or uid not in wanted.uids):
                return None
            if wanted.cgroup and cgroup not in dict(cgroup_paths.below(wanted.cgroup)):
                return None
            record.set("cgroup", cgroup)
            record.set("uid", uid)
            record.set("ppid", ppid)
        return framed


def _inode(value: bytes) -> int:
    """Of a parked session's socket; 0: no descriptor leads to it."""
    inode: int = _REST.unpack_from(value, len(value) - _REST.size)[-1]
    return inode


def in_container() -> bool:
    """Whether /proc counts processes otherwise than records do, and has not all."""
    return os.stat(PID_NAMESPACE).st_ino != INITIAL_PIDS


def _holders(inodes: set[int]) -> tuple[dict[int, set[int]], bool]:
    """The processes that have these sockets open; whether all could be looked into."""
    found: dict[int, set[int]] = {}
    if not inodes:
        return found, True
    if in_container():
        return found, False
    all_seen = True
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    for entry in filter(str.isdecimal, os.listdir(PROC)):
        try:
            for target in _targets(f"{PROC}/{entry}/fd"):
                inode = wanted.get(target)
                if inode is not None:
                    found.setdefault(inode, set()).add(int(entry))
        except PermissionError:
            all_seen = False
        except OSError:  # the process is gone
            continue
    return found, all_seen


def _targets(folder: str) -> Iterator[str]:
    """What a process's descriptors lead to."""
    for name in os.listdir(folder):
        try:
            yield os.readlink(f"{folder}/{name}")
        except FileNotFoundError:  # closed meanwhile
            continue


def _process(pid: int) -> Process | None:
    """None if it is gone."""
    try:
        with open(f"{PROC}/{pid}/comm", "rb") as file:
            comm = file.read().removesuffix(b"\n")
        with open(f"{PROC}/{pid}/status", "rb") as file:
            status = dict(line.split(b":", 1) for line in file if b":" in line)
        with open(f"{PROC}/{pid}/cgroup", "rb") as file:
            paths = [line[3:-1] for line in file if line.startswith(b"0::")]
    except OSError:
        return None
    cgroup = _cgroup(os.fsdecode(paths[0])) if paths else 0
    uid, ppid = int(status[b"Uid"].split()[0]), int(status[b"PPid"])
    return pid, comm, _MORE.pack(cgroup, uid, ppid)


def _cgroup(path: str) -> int:
    """Its ID; 0 if it cannot be seen from here."""
    try:
        root = cgroup_paths.mount_point()
        return os.stat(root + path).st_ino if root else 0
    except OSError:
        return 0
