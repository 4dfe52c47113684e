"""Looking for the owners of parked sessions (see bpf/tcplife.bpf.c).

A session that ended while a process held its socket gets its owner when that
process closes it, most often at once. Where it doesn't, a walk over all open
files (as ss -p does, but in the kernel) finds it. The walk is dear on a host
with many files, so that it is kept to a small share of one processor.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from tcplife import layout
from tcplife.kernel.libbpf import Library
from tcplife.kernel.program import (
    LoadError,
    Program,
    Struct,
    read_iterator,
    set_config,
)

# How much of one processor searching may take.
SHARE = 0.02
# Seconds between searches that find nothing: at first, and at most.
PAUSE = 0.1
PAUSE_MAX = 10.0


class Holders:
    """found: how many sessions were given their owner so far."""

    def __init__(
        self, library: Library, sessions: Program, config: Mapping[str, int]
    ) -> None:
        self._library = library
        self._sessions = sessions
        self._config = config
        self._program: Program | None = None
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
        try:
            program = self._program = self._program or self._load()
        except LoadError:
            # Their owners will still be known when they close the sockets.
            self._failed = True
            return
        walk = Struct(program.variables(), layout.WALK)
        before = self.found
        # Who acted on the socket before, if it still holds it; else, who does.
        for any_holder in (0, 1):
            walk.set("any_holder", any_holder)
            yield from read_iterator(program.iterate("name_holders"))
        if last:
            yield from read_iterator(program.iterate("write_unheld", "parked"))
        self.found = walk.get("found")
        self._unfound = parked - (self.found - before)
        self._pause = PAUSE if self.found > before else min(2 * self._pause, PAUSE_MAX)
        ended = time.monotonic()
        self._not_before = ended + max(self._pause, (ended - began) / SHARE)

    def _load(self) -> Program:
        story = self._sessions.name == "tcplife_full"
        program = Program(self._library, "holders_full" if story else "holders")
        try:
            set_config(program, self._config)
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
