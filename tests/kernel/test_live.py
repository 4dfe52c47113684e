"""The live view of --summary -i, in a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .tracer import OURS, PATIENCE

CONTROL = re.compile(rb"\x1b(?:\[[0-9;?]*[a-zA-Z]|[()][A-Z0-9]|[=>])")


class Terminal:
    """A terminal with the tool in it; `text` is all that it has written."""

    def __init__(self, *options: str) -> None:
        self._master, slave = pty.openpty()
        self.resize(40, 140)
        self.settings = termios.tcgetattr(slave)
        self.slave = slave
        self.text = b""
        self.process = subprocess.Popen(
            [*OURS, "--summary", "-i", "0.2", *options],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm"},
        )

    def resize(self, lines: int, columns: int) -> None:
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def read(self) -> None:
        ready, _, _ = select.select([self._master], [], [], 0.05)
        if ready:
            self.text += os.read(self._master, 65536)

    def wait_for(self, wanted: str) -> None:
        """Until it is written, from now on."""
        self.text = b""
        deadline = time.monotonic() + PATIENCE
        while wanted.encode() not in CONTROL.sub(b"", self.text):
            assert time.monotonic() < deadline, self.text
            self.read()

    def press(self, key: str) -> None:
        os.write(self._master, key.encode())

    def end(self) -> int:
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline
            self.read()
        self.read()
        return self.process.returncode

    def restored(self) -> bool:
        """Whether it is as it was: its modes, and its own screen."""
        return termios.tcgetattr(self.slave) == self.settings and self.text.rfind(
            b"\x1b[?1049l"
        ) > self.text.rfind(b"\x1b[?1049h")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self.slave)


@contextmanager
def terminal(*options: str) -> Iterator[Terminal]:
    made = Terminal(*options)
    try:
        yield made
    finally:
        made.close()


def test_frames_sorting_grouping_and_quitting(root: None) -> None:
    with terminal() as shown:
        shown.wait_for("by count, the last interval")
        shown.wait_for("COMM")
        shown.press("s")
        shown.wait_for("failed")
        shown.press("t")
        shown.wait_for("since it began")
        shown.press(" ")
        shown.wait_for("paused")
        shown.press("q")
        assert shown.end() == 0
        assert shown.restored()
        # What it had counted is left on the terminal.
        assert b"COMM" in shown.text[shown.text.rfind(b"\x1b[?1049l") :]


def test_it_takes_the_terminals_new_size(root: None) -> None:
    with terminal() as shown:
        shown.wait_for("COMM")
        shown.resize(10, 60)
        os.kill(shown.process.pid, signal.SIGWINCH)
        shown.wait_for("by count, the last interval")
        shown.press("q")
        assert shown.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_restores_the_terminal(root: None, number: signal.Signals) -> None:
    with terminal() as shown:
        shown.wait_for("COMM")
        shown.process.send_signal(number)
        assert shown.end() == 0
        assert shown.restored()


def test_a_pipe_gets_tables(root: None) -> None:
    argv = [*OURS, "--summary", "-i", "0.2", "--duration", "0.7"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert "\x1b" not in done.stdout
    assert done.stdout.count("COMM") >= 2
    assert done.stderr == ""
