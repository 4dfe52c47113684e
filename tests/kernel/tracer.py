"""Runs a tool - ours, or libbpf-tools' - and collects its rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import IO, NamedTuple

from .scenarios import End, Key

# Forced, to run the same tests on each tier that a kernel has.
TIER = ("--tier", os.environ["TCPLIFE_TIER"]) if "TCPLIFE_TIER" in os.environ else ()
OURS = (sys.executable, "-m", "tcplife", *TIER)
STATES = (sys.executable, "-m", "tcplife.cli.tcpstates", *TIER)
PEER = "/usr/sbin/tcplife"
PATIENCE = 15.0


class Row(NamedTuple):
    laddr: str
    lport: int
    raddr: str
    rport: int
    pid: int | None
    comm: str | None
    tx_bytes: float
    rx_bytes: float
    ip: int

    @property
    def key(self) -> Key:
        return self[:4]


def parse_json(line: str) -> Row:
    row = json.loads(line)
    return Row(*(row[name] for name in Row._fields))


def parse_peer(line: str) -> Row | None:
    """PID COMM LADDR LPORT RADDR RPORT TX_KB RX_KB MS; None for the header."""
    if line.startswith("PID"):
        return None
    # Taken from both sides: others' process names may have spaces in them.
    laddr, lport, raddr, rport, tx, rx, _ = line.split()[-7:]
    pid, comm = line.split()[:2]
    addresses = [ip_address(text) for text in (laddr, raddr)]
    for n, address in enumerate(addresses):
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            addresses[n] = address.ipv4_mapped
    local, remote = addresses
    return Row(
        str(local),
        int(lport),
        str(remote),
        int(rport),
        int(pid),
        comm,
        float(tx) * 1024,
        float(rx) * 1024,
        local.version,
    )


class Tracer:
    """A running tool, whose output threads gather as it comes."""

    def __init__(
        self,
        argv: Sequence[str],
        stdout: int | IO[bytes] = subprocess.PIPE,
        parse: Callable[[str], Row | None] = parse_json,
    ) -> None:
        self.process = subprocess.Popen(argv, stdout=stdout, stderr=subprocess.PIPE)
        self.lines: list[str] = []
        self.errors: list[str] = []
        self.ended = False
        self._parse = parse
        self._parsed = 0
        self._rows: dict[Key, list[Row]] = {}
        self._news = threading.Condition()
        self._readers = [
            threading.Thread(target=self._gather, args=(stream, lines))
            for stream, lines in (
                (self.process.stdout, self.lines),
                (self.process.stderr, self.errors),
            )
            if stream
        ]
        for reader in self._readers:
            reader.start()

    def _gather(self, stream: IO[bytes], lines: list[str]) -> None:
        with stream:
            for line in stream:
                with self._news:
                    lines.append(os.fsdecode(line).removesuffix("\n"))
                    self._news.notify_all()
        with self._news:
            self.ended = True
            self._news.notify_all()

    def rows(self) -> dict[Key, list[Row]]:
        """The rows so far, by the session's end that they are of."""
        with self._news:
            for line in self.lines[self._parsed :]:
                if row := self._parse(line):
                    self._rows.setdefault(row.key, []).append(row)
            self._parsed = len(self.lines)
            return self._rows

    def wait_for(self, found: Callable[[], bool], patience: float = PATIENCE) -> bool:
        """Look again after each line that comes; give up after a while."""
        with self._news:
            self._news.wait_for(lambda: self.ended or found(), patience)
            return found()

    def wait_for_ends(self, ends: Iterable[End], patience: float = PATIENCE) -> bool:
        keys = {end.key for end in ends}
        return self.wait_for(lambda: keys <= self.rows().keys(), patience)

    def finish(self) -> int:
        """Wait until the tool has ended; gather all its output."""
        status = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join()
        return status

    def stop(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.finish()


def wait_until(found: Callable[[], bool], what: str) -> None:
    """For what no line of a tool's tells."""
    deadline = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < deadline, what
        time.sleep(0.002)


@contextmanager
def _killed_at_last(tracer: Tracer) -> Iterator[Tracer]:
    try:
        yield tracer
    finally:
        tracer.process.kill()
        tracer.finish()


@contextmanager
def ours(
    *options: str,
    stdout: int | IO[bytes] = subprocess.PIPE,
    prefix: Sequence[str] = (),
    tool: Sequence[str] = OURS,
) -> Iterator[Tracer]:
    """One of our tools, tracing. `-v` is what makes it say so."""
    argv = [*prefix, *tool, "-v", *options]
    with _killed_at_last(Tracer(argv, stdout)) as tracer:
        # Some tests start dozens at once.
        if not tracer.wait_for(lambda: tracing(tracer), patience=4 * PATIENCE):
            raise RuntimeError("\n".join(["it does not trace:", *tracer.errors]))
        yield tracer


def tracing(tracer: Tracer) -> bool:
    return any("tracing" in line for line in tracer.errors)


@contextmanager
def peer() -> Iterator[Tracer]:
    """libbpf-tools' tcplife, tracing: it prints its header once attached."""
    if not Path(PEER).exists():
        raise RuntimeError(f"{PEER} not found: install libbpf-tools")
    if not Path("/sys/kernel/tracing/events").exists():
        subprocess.run(
            ["mount", "-t", "tracefs", "none", "/sys/kernel/tracing"], check=True
        )
    argv = ["stdbuf", "-oL", PEER]
    with _killed_at_last(Tracer(argv, parse=parse_peer)) as tracer:
        if not tracer.wait_for(lambda: bool(tracer.lines)):
            raise RuntimeError("\n".join(["the peer does not trace:", *tracer.errors]))
        yield tracer
