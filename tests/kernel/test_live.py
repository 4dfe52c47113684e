"""The live view of --summary -i, in a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pyte
import pytest

from .tracer import OURS, PATIENCE


class Terminal:
    """A terminal with the tool in it.

    text: all that the tool has written. screen: what is to be seen.
    """

    def __init__(self, *options: str, **environment: str) -> None:
        self._master, slave = pty.openpty()
        self.settings = termios.tcgetattr(slave)
        self.slave = slave
        self.text = b""
        self.resize(40, 140)
        self.process = subprocess.Popen(
            [*OURS, "--summary", "-i", "0.2", *options],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "screen", **environment},
        )

    def resize(self, lines: int, columns: int) -> None:
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def screen(self) -> str:
        return "\n".join(line.rstrip() for line in self._screen.display)

    def read(self) -> None:
        ready, _, _ = select.select([self._master], [], [], 0.05)
        if ready:
            written = os.read(self._master, 65536)
            self.text += written
            self._stream.feed(written)

    def wait_for(self, *wanted: str) -> None:
        """Until all of these regular expressions are on the screen."""
        deadline = time.monotonic() + PATIENCE
        while not all(re.search(one, self.screen) for one in wanted):
            assert time.monotonic() < deadline, self.screen
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
def terminal(*options: str, **environment: str) -> Iterator[Terminal]:
    made = Terminal(*options, **environment)
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


def test_the_histogram_asked_for_comes_back(root: None) -> None:
    """After the table, which has its percentiles as well."""
    pid = str(os.getpid())
    with terminal("--hist", "tx", "-p", pid, "--by", "pid") as shown:
        shown.wait_for("waiting")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            server = listener.accept()[0]
            client.sendall(bytes(100))
            client.close()
            while server.recv(1000):
                pass
            server.close()
        shown.press("t")
        shown.wait_for(rf"(?m)pid = {pid}$", "bytes +: count", "64 -> 127 +: 1 ")
        shown.press("h")
        shown.wait_for("PID +COUNT +/S +FAIL +P50_MS", rf"{pid} +2 +\S+ +0 +\d")
        shown.press("h")
        shown.wait_for("bytes +: count", "64 -> 127 +: 1 ")


def test_it_takes_the_terminals_new_size(root: None) -> None:
    with terminal() as shown:
        shown.wait_for("COMM")
        shown.resize(10, 60)
        os.kill(shown.process.pid, signal.SIGWINCH)
        shown.wait_for(r"\Aby count, the last interval .*\n\n *COMM")
        shown.press("q")
        assert shown.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_restores_the_terminal(root: None, number: signal.Signals) -> None:
    with terminal() as shown:
        shown.wait_for("COMM")
        shown.process.send_signal(number)
        assert shown.end() == 0
        assert shown.restored()


@pytest.mark.parametrize("term", ["", "no-such"])
def test_a_terminal_that_nobody_knows_gets_tables(root: None, term: str) -> None:
    with terminal("--duration", "0.7", TERM=term) as shown:
        assert shown.end() == 0
        text = shown.text.decode().replace("\r\n", "\n")
    first, _, rest = text.partition("\n")
    assert first.startswith("tcplife: no live view: ")
    assert first.endswith("; printing a table for each interval")
    assert rest.count("COMM") >= 2
    assert "\x1b" not in text
    assert "internal error" not in text


def test_the_total_has_no_more_groups_than_it_may(root: None) -> None:
    pid = str(os.getpid())
    options = ("-p", pid, "--by", "lport", "--max-groups", "2")
    with terminal(*options) as shown, socket.create_server(("127.0.0.1", 0)) as server:
        shown.wait_for("waiting|LPORT")
        for _ in range(3):
            shown.wait_for("LPORT")
            client = socket.create_connection(server.getsockname())
            accepted = server.accept()[0]
            client.close()
            accepted.close()
            time.sleep(0.3)  # an interval each
        shown.press("q")
        assert shown.end() == 0
    end = shown.text[shown.text.rfind(b"\x1b[?1049l") :].decode()
    assert len(re.findall(r"(?m)^\d+ +\d", end)) == 2
    assert re.search(r"(?m)^\(other\) +2 ", end)
    assert "2 are in (other)" in end


def test_a_pipe_gets_tables(root: None) -> None:
    argv = [*OURS, "--summary", "-i", "0.2", "--duration", "0.7"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert "\x1b" not in done.stdout
    assert done.stdout.count("COMM") >= 2
    assert done.stderr == ""
