"""Starts endpoint.py in a namespace and gives it its orders."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .netns import Host

PROGRAM = (sys.executable, "-IS", str(Path(__file__).with_name("endpoint.py")))
PATIENCE = 30.0


class Remote:
    """One endpoint process, driven over its standard input and output."""

    def __init__(self, host: Host, comm: str, program: Sequence[str] = PROGRAM) -> None:
        self.comm = comm
        # `ip netns exec` becomes the program, so the PID stays the one we know.
        # A session of its own lets close() reach forked children too.
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", host.namespace, *program, comm],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def call(self, command: str, *arguments: Any) -> Any:
        """Give an order and wait for its answer."""
        self.order(command, *arguments)
        return self.answer()

    def order(self, command: str, *arguments: Any) -> None:
        assert self._process.stdin
        print(json.dumps([command, *arguments]), file=self._process.stdin, flush=True)

    def answer(self) -> Any:
        """Return what the last order returned, or raise its OSError."""
        stdout = self._process.stdout
        assert stdout
        if not select.select([stdout], [], [], PATIENCE)[0]:
            raise TimeoutError(f"{self.comm}: no answer")
        line = stdout.readline()
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
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the process, and any that it forked."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with self._process:
            pass
