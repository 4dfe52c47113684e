"""Has endpoint.py start processes in a namespace, and gives them their orders."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .netns import Host

PROGRAM = (sys.executable, "-IS", str(Path(__file__).with_name("endpoint.py")))
PATIENCE = 30.0


class Nursery:
    """A process in a namespace that forks endpoints."""

    def __init__(self, host: Host) -> None:
        self._lock = threading.Lock()
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", host.namespace, *PROGRAM, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        # `ip netns exec` becomes the program.
        self.pid = self._process.pid

    def fork(self, comm: str, channel: socket.socket) -> int:
        """Start an endpoint, which reads and writes there; return its PID."""
        return self._order(os.fsencode(comm), channel.fileno())

    def firewall(self, command: str) -> None:
        """Carry out a command of nft's."""
        if self._order(command.encode()):
            raise RuntimeError(f"nft {command}: see standard error")

    def _order(self, message: bytes, *descriptors: int) -> int:
        with self._lock:
            socket.send_fds(self._orders, [message], descriptors)
            answer = self._orders.recv(4)
        if not answer:
            raise RuntimeError("the endpoints' nursery died")
        (value,) = struct.unpack("i", answer)
        return int(value)

    def close(self) -> None:
        self._orders.close()
        with self._process:
            pass


_nurseries: dict[str, Nursery] = {}
_nurseries_lock = threading.Lock()


def nursery(host: Host) -> Nursery:
    with _nurseries_lock:
        if host.namespace not in _nurseries:
            _nurseries[host.namespace] = Nursery(host)
        return _nurseries[host.namespace]


def close_nursery(host: Host) -> None:
    with _nurseries_lock:
        if found := _nurseries.pop(host.namespace, None):
            found.close()


def start(host: Host, program: Sequence[str], channel: socket.socket) -> int:
    """Start a program that isn't endpoint.py; return its PID."""
    argv = ["ip", "netns", "exec", host.namespace, *program]
    fd = channel.fileno()
    # Remote waits for it, as it does for a nursery's.
    return os.posix_spawnp(
        "ip",
        argv,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, 0), (os.POSIX_SPAWN_DUP2, fd, 1)],
        setsid=True,
    )


class Remote:
    """One endpoint process, or another program that takes orders as it does."""

    def __init__(self, host: Host, comm: str, program: Sequence[str] = ()) -> None:
        self.comm = comm
        ours, theirs = socket.socketpair()
        with theirs:
            if program:
                self.pid = start(host, [*program, comm], theirs)
            else:
                self.pid = nursery(host).fork(comm, theirs)
        self._leader = self.pid
        # The process, whoever has its number later.
        self._pidfd = os.pidfd_open(self.pid)
        with ours:
            self._orders = ours.makefile("w")
            self._answers = ours.makefile("r")

    def call(self, command: str, *arguments: Any) -> Any:
        """Give an order and wait for its answer."""
        self.order(command, *arguments)
        return self.answer()

    def order(self, command: str, *arguments: Any) -> None:
        print(json.dumps([command, *arguments]), file=self._orders, flush=True)

    def answer(self) -> Any:
        """Return what the last order returned, or raise its OSError."""
        if not select.select([self._answers], [], [], PATIENCE)[0]:
            raise TimeoutError(f"{self.comm}: no answer")
        line = self._answers.readline()
        if not line:
            raise RuntimeError(f"{self.comm} died")
        verdict, *rest = json.loads(line)
        if verdict == "error":
            raise OSError(*rest)
        return rest[0]

    def fork(self, suffix: str) -> None:
        """Go on in a forked child; the parent has closed its copies by then."""
        comm = self.comm + suffix
        self.pid = self.call("fork", comm)
        self.comm = comm

    def kill(self) -> None:
        """SIGKILL, and wait until the kernel has closed its sockets."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        # That is told of only then (kernel/exit.c: exit_notify()).
        select.select([self._pidfd], [], [])

    def close(self) -> None:
        """End the process, and any that it forked."""
        # Both: it leads no group until it has come to run.
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.killpg(self._leader, signal.SIGKILL)
        select.select([self._pidfd], [], [])
        os.close(self._pidfd)
        with suppress(ChildProcessError):  # a nursery's
            os.waitpid(self._leader, 0)
        for stream in (self._orders, self._answers):
            # What a killed process has not read any more.
            with suppress(BrokenPipeError):
                stream.close()
