"""State changes that this kernel shows to no BPF program.

A test machine may protect its supervisor, PID 1: while that is on the processor, its
kernel runs no BPF program, not even for the packets that an interrupt brings then.
ftrace sees those changes. On any other kernel there is nothing special about them.
"""

from __future__ import annotations

import atexit
import functools
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from .scenarios import Key

Test = TypeVar("Test", bound=Callable[..., None])
Made = TypeVar("Made")

TRACING = Path("/sys/kernel/tracing")
CHANGE = re.compile(
    r"-(\d+) +\[\d+\] .* (\d+\.\d+): inet_sock_set_state: .*"
    r"sport=(\d+) dport=(\d+) saddr=(\S+) daddr=(\S+) "
)
TRIES = 5


class Hidden(UserWarning):
    pass


def threads() -> set[str]:
    return {path.name for path in Path("/proc/1/task").iterdir()}


@functools.cache
def watching() -> Path | None:
    """What ftrace keeps of PID 1, from the first call on."""
    if not TRACING.joinpath("instances").is_dir():
        return None  # no tracefs
    instance = TRACING / "instances" / f"tcplife-test-{os.getpid()}"
    instance.mkdir()
    atexit.register(instance.rmdir)
    (instance / "trace_clock").write_text("mono")
    (instance / "options/event-fork").write_text("1")
    (instance / "set_event_pid").write_text(" ".join(threads()))
    (instance / "buffer_size_kb").write_text("4096")
    (instance / "events/sock/inet_sock_set_state/enable").write_text("1")
    return instance


class Blind:
    """The changes made while PID 1 is on a processor, from here on."""

    def __init__(self) -> None:
        self._instance = watching()
        self._since = time.monotonic()

    def keys(self) -> list[Key]:
        """The end that each is of."""
        if self._instance is None:
            return []
        text = (self._instance / "trace").read_text()
        protected = threads()  # what they started is not
        return [
            (laddr, int(lport), raddr, int(rport))
            for thread, at, lport, rport, laddr, raddr in CHANGE.findall(text)
            if float(at) >= self._since and thread in protected
        ]

    def tell(self, what: Callable[..., object]) -> None:
        """That it is run once more, and why."""
        name = f"{what.__module__}.{what.__qualname__}"
        warnings.warn(
            f"{name}: again, this kernel hid {self.keys()}", Hidden, stacklevel=2
        )


def again_if_blind(test: Test) -> Test:
    """A test that fails is run again, if this kernel has hidden a change from it."""

    @functools.wraps(test)
    def run(*arguments: object, **fixtures: object) -> None:
        for n in range(1, TRIES):
            blind = Blind()
            try:
                return test(*arguments, **fixtures)
            except Exception:
                if not blind.keys():
                    raise
            blind.tell(test)
            if isinstance(folder := fixtures.get("tmp_path"), Path):
                fixtures["tmp_path"] = folder / f"again-{n}"
                (folder / f"again-{n}").mkdir()
        return test(*arguments, **fixtures)

    return run  # type: ignore[return-value]


def played_again_if_blind(
    fixture: Callable[..., Iterator[Made]],
) -> Callable[..., Iterator[Made]]:
    """A fixture does all again, if this kernel has hidden a change from it."""

    @functools.wraps(fixture)
    def run(**fixtures: object) -> Iterator[Made]:
        for _ in range(1, TRIES):
            blind = Blind()
            playing = fixture(**fixtures)
            try:
                made = next(playing)
            except Exception:
                if not blind.keys():
                    raise
                blind.tell(fixture)
                continue
            if not blind.keys():
                yield made
                yield from playing
                return
            blind.tell(fixture)
            next(playing, None)
        yield from fixture(**fixtures)

    return run
