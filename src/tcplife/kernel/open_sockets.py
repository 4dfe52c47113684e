"""Walking over the sockets there are (see bpf/walk.h)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator

from tcplife.kernel.owners import in_container
from tcplife.kernel.program import Program, read_iterator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcplife.kernel.shared import Shared

NETNS = "/proc/self/ns/net"
# Where ip-netns(8) keeps those that it makes.
NAMED = "/run/netns"
# include/uapi/linux/sched.h
_CLONE_NEWNET = 0x40000000


class Walks:
    """not_entered: network namespaces that could not be entered, and why not."""

    def __init__(self, program: Program, shared: Shared) -> None:
        self._program = program
        self._shared = shared
        self._rounds = 0
        self.not_entered: dict[str, str] = {}

    def note(self) -> None:
        """Has the kernel side know all sessions that are open."""
        for fd in self._in_namespaces("note_sessions"):
            _exhaust(fd)
        self.note_owners()
        self._shared.set("noted", 1)

    def note_owners(self) -> None:
        """Who acted on a socket and has it open is its owner, else whoever has."""
        # Of one byte in the kernel, and never 0, which is no round.
        self._rounds = self._rounds % 255 + 1
        self._shared.set("round", self._rounds)
        for any_holder in (0, 1):
            self._shared.set("any_holder", any_holder)
            _exhaust(self._program.iterate("note_owners"))

    def list_open(self, last: bool) -> Iterator[memoryview]:
        """The records of the sessions that are open.

        last: they are not told again when they end.
        """
        self.note_owners()
        self._shared.set("last_list", last)
        for fd in self._in_namespaces("list_open"):
            yield from read_iterator(fd)

    def _in_namespaces(self, program: str) -> Iterator[int]:
        """The iterator once for each network namespace, our own first.

        It is bound to the one that the process is in when it is made
        (kernel/bpf/bpf_iter.c, bpf_iter_init_seq_net()).
        """
        yield self._program.iterate(program)
        libc = ctypes.CDLL(None, use_errno=True)
        home = os.open(NETNS, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for path in self._others(os.fstat(home).st_ino):
                try:
                    there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except OSError as error:
                    self._note_failure(path, error)
                    continue
                entered = libc.setns(there, _CLONE_NEWNET) == 0
                why = os.strerror(ctypes.get_errno())
                os.close(there)
                if not entered:
                    self.not_entered[path] = why
                    continue
                try:
                    fd = self._program.iterate(program)
                finally:
                    libc.setns(home, _CLONE_NEWNET)
                yield fd
        finally:
            os.close(home)

    def _others(self, own: int) -> Iterator[str]:
        """A path to each network namespace that has a process or a name, but `own`."""
        if in_container():
            self.not_entered["the host's"] = "this is a container"
        seen = {own}
        pids = filter(str.isdecimal, os.listdir("/proc"))
        paths = [f"/proc/{pid}/ns/net" for pid in pids]
        if os.path.isdir(NAMED):
            paths += [f"{NAMED}/{name}" for name in os.listdir(NAMED)]
        for path in paths:
            try:
                inode = os.stat(path).st_ino
            except OSError as error:
                self._note_failure(path, error)
                continue
            if inode not in seen:
                seen.add(inode)
                yield path

    def _note_failure(self, path: str, error: OSError) -> None:
        """A process that is gone by now takes nothing away, nor does a name that was
        left behind by an `ip netns add` whose mount is gone."""
        if isinstance(error, (FileNotFoundError, ProcessLookupError)):
            return
        self.not_entered[path] = error.strerror or str(error)


def _exhaust(fd: int) -> None:
    for _ in read_iterator(fd):
        raise AssertionError("this iterator writes nothing")
