"""State changes that this kernel shows to no BPF program.

A test machine may protect its supervisor, PID 1: while that is on the processor, its
kernel runs no BPF program, not even for the packets that an interrupt brings then.
ftrace sees those changes. On any other kernel there is nothing special about them.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from .scenarios import Key

Test = TypeVar("Test", bound=Callable[..., None])

TRACING = Path("/sys/kernel/tracing")
ENDS = re.compile(r"sport=(\d+) dport=(\d+) saddr=(\S+) daddr=(\S+) ")


class Blind:
    """The changes made while PID 1 is on a processor."""

    def __init__(self, instance: Path | None) -> None:
        self._instance = instance

    def keys(self) -> list[Key]:
        """The end that each is of."""
        if self._instance is None:
            return []
        text = (self._instance / "trace").read_text()
        return [
            (laddr, int(lport), raddr, int(rport))
            for lport, rport, laddr, raddr in ENDS.findall(text)
        ]


@contextmanager
def blind_spots() -> Iterator[Blind]:
    if not TRACING.joinpath("instances").is_dir():
        yield Blind(None)  # no tracefs, as in vmtest's guests, which hide nothing
        return
    instance = TRACING / "instances" / f"tcplife-test-{os.getpid()}"
    instance.mkdir()
    try:
        threads = " ".join(path.name for path in Path("/proc/1/task").iterdir())
        (instance / "options/event-fork").write_text("1")
        (instance / "set_event_pid").write_text(threads)
        (instance / "buffer_size_kb").write_text("4096")
        (instance / "events/sock/inet_sock_set_state/enable").write_text("1")
        yield Blind(instance)
    finally:
        instance.rmdir()


def again_if_blind(test: Test) -> Test:
    """Run a test that fails once more, if this kernel has hidden a change from it."""

    @functools.wraps(test)
    def run(*arguments: object, **fixtures: object) -> None:
        while True:
            with blind_spots() as blind:
                try:
                    return test(*arguments, **fixtures)
                except (AssertionError, ValueError):
                    if not blind.keys():
                        raise

    return run  # type: ignore[return-value]
