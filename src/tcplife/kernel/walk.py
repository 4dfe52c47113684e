"""Walking over the sockets there are (see bpf/walk.h)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator

from tcplife.kernel.program import Program, Struct, read_iterator

NETNS = "/proc/self/ns/net"
# include/uapi/linux/sched.h
_CLONE_NEWNET = 0x40000000


class Walks:
    """skipped: how many network namespaces could not be entered."""

    def __init__(self, program: Program, control: Struct) -> None:
        self._program = program
        self._control = control
        self._rounds = 0
        self.skipped = 0

    def note(self) -> None:
        """Has the kernel side know all sessions that are open."""
        for fd in self._in_namespaces("note_sessions"):
            _exhaust(fd)
        self.note_owners()
        self._control.set("noted", 1)

    def note_owners(self) -> None:
        """Who acted on a socket and has it open is its owner, else whoever has."""
        # Of one byte in the kernel, and never 0, which is no round.
        self._rounds = self._rounds % 255 + 1
        self._control.set("round", self._rounds)
        for any_holder in (0, 1):
            self._control.set("any_holder", any_holder)
            _exhaust(self._program.iterate("note_owners"))

    def list_open(self, last: bool) -> Iterator[memoryview]:
        """The records of the sessions that are open.

        last: they are not told again when they end.
        """
        self.note_owners()
        self._control.set("last_list", last)
        for fd in self._in_namespaces("list_open"):
            yield from read_iterator(fd)

    def _in_namespaces(self, program: str) -> Iterator[int]:
        """The iterator once for each network namespace, our own first.

        It is bound to the one that the process is in when it is made
        (kernel/bpf/bpf_iter.c, bpf_iter_init_seq_net()).
        """
        yield self._program.iterate(program)
        libc = ctypes.CDLL(None, use_errno=True)
        self.skipped = 0
        home = os.open(NETNS, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for path in _others(os.fstat(home).st_ino):
                try:
                    there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except OSError:  # gone meanwhile, or not ours to see
                    self.skipped += 1
                    continue
                entered = libc.setns(there, _CLONE_NEWNET) == 0
                os.close(there)
                if not entered:
                    self.skipped += 1
                    continue
                fd = self._program.iterate(program)
                libc.setns(home, _CLONE_NEWNET)
                yield fd
        finally:
            os.close(home)


def _others(own: int) -> Iterator[str]:
    """A path to each network namespace that a process is in, but our own."""
    seen = {own}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            path = f"/proc/{entry}/ns/net"
            try:
                inode = os.stat(path).st_ino
            except OSError:  # the process is gone, or not ours to see
                continue
            if inode not in seen:
                seen.add(inode)
                yield path


def _exhaust(fd: int) -> None:
    for _ in read_iterator(fd):
        raise AssertionError("this iterator writes nothing")
