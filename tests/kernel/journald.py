"""A real systemd-journald in a mount namespace of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .tracer import wait_until

PROGRAM = "/lib/systemd/systemd-journald"

# The socket's queue is as long as systemd makes it at boot: that is a setting of
# the network namespace. Drop-ins in /run go before the host's journald.conf.
SETUP = """
set -e
mount -t tmpfs -o mode=755,size=256m tmpfs /run
mkdir -p /run/log/journal /run/systemd/journal /run/systemd/journald.conf.d
cat > /run/systemd/journald.conf.d/zz-test.conf <<END
[Journal]
Storage=volatile
RateLimitIntervalSec=0
RateLimitBurst=0
ReadKMsg=no
Audit=
ForwardToSyslog=no
ForwardToWall=no
END
echo 512 > /proc/sys/net/unix/max_dgram_qlen
echo ready
exec cat
"""


class Journald:
    """journald, running; and the namespace, which stays when it ends."""

    def __init__(self, namespace: int) -> None:
        self.namespace = namespace
        # The way in from outside of the namespace.
        root = f"/proc/{namespace}/root"
        self.socket = f"{root}/run/systemd/journal/socket"
        self._directory = f"{root}/run/log/journal"
        self.process = self._launch()

    def inside(self, *argv: str) -> list[str]:
        """A command line that becomes `argv` in the mount namespace, PID and all."""
        enter = ("nsenter", "--mount", f"--target={self.namespace}")
        # Entering leads to /.
        return [*enter, "env", f"--chdir={os.getcwd()}", *argv]

    def _launch(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                *("nsenter", "--mount", "--net", f"--target={self.namespace}"),
                *("setpriv", "--pdeathsig=KILL", PROGRAM),
            ],
            # Nothing of a service manager's; complaints to standard error.
            env={"PATH": os.environ["PATH"], "SYSTEMD_LOG_TARGET": "console"},
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until_up(self) -> None:
        wait_until(self._is_up, "journald does not say that it started")

    def _is_up(self) -> bool:
        if self.process.poll() is not None:
            assert self.process.stderr
            reason = self.process.stderr.read().strip()
            raise RuntimeError(f"journald does not start: {reason}")
        # Not merely once it can be connected to: what comes before journald has
        # asked for the senders' credentials is kept without them.
        return bool(self.entries(f"_PID={self.process.pid}", "MESSAGE=Journal started"))

    def restart(self) -> None:
        self.kill()
        self.process = self._launch()
        self.wait_until_up()

    def kill(self) -> None:
        """Ends journald, SIGKILL; its socket stays, with nobody behind it."""
        with self.process:
            self.process.kill()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: self._state() == "T", "journald does not stop")

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def _state(self) -> str:
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        return stat.rpartition(") ")[2][0]

    def entries(self, *matches: str) -> list[dict[str, Any]]:
        """What journalctl reads back, oldest first.

        A field that an entry has more than once is a list.
        """
        done = subprocess.run(
            ["journalctl", "-q", "-D", self._directory, "-o", "json", "-a", *matches],
            check=False,
            capture_output=True,
        )
        # It finds no file before journald has made one, and says so.
        return [
            {name: _decode(value) for name, value in json.loads(line).items()}
            for line in done.stdout.splitlines()
        ]

    def wait_for(self, count: int, *matches: str) -> list[dict[str, Any]]:
        """Reads again until there are so many entries, and returns all."""
        found: list[dict[str, Any]] = []

        def enough() -> bool:
            found[:] = self.entries(*matches)
            return len(found) >= count

        wait_until(enough, f"fewer than {count} entries for {matches}")
        return found


def _decode(value: Any) -> Any:
    """journalctl shows what isn't printable as the numbers of its bytes."""
    if isinstance(value, list):
        if all(isinstance(item, int) for item in value):
            return bytes(value).decode()
        return [_decode(item) for item in value]
    return value


@contextmanager
def journald() -> Iterator[Journald]:
    """Starts journald; ends it, and its namespace, whatever happens."""
    _need("systemd", PROGRAM, "/usr/bin/journalctl")
    _need("util-linux", "/usr/bin/unshare", "/usr/bin/nsenter", "/usr/bin/setpriv")
    argv: Sequence[str] = ("unshare", "--mount", "--net", "sh", "-c", SETUP)
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin
        assert holder.stdout
        if holder.stdout.readline() != "ready\n":
            raise RuntimeError("no namespace for journald")
        server = Journald(holder.pid)
        try:
            server.wait_until_up()
            yield server
        finally:
            server.kill()
            holder.stdin.close()


def _need(package: str, *paths: str) -> None:
    for path in paths:
        if not Path(path).exists():
            raise RuntimeError(f"{path} not found: install {package}")
