"""When to stop tracing: after a time, or when a file descriptor says so."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable


class Stop:
    """What ends a trace.

    seconds: after which it ends; None: it goes on.
    fds: file descriptors to watch, with the epoll events that end it.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self.fds: dict[int, int] = {}
        self.asked = False
        self._signals = -1
        self._ending: frozenset[int] = frozenset()
        self._notes: dict[int, Callable[[], None]] = {}
        self._watchers: dict[int, Callable[[], bool]] = {}

    def remaining(self, at_most: float) -> float:
        """Seconds to wait, 0 once the time is over."""
        if self._deadline is None:
            return at_most
        return max(0.0, min(at_most, self._deadline - time.monotonic()))

    def expired(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def on_signals(self, numbers: Iterable[signal.Signals]) -> None:
        """Ends the trace at the first of these signals; the second one kills."""
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, _default_next_time)
        self.fds[reader] = select.EPOLLIN
        self._signals = reader
        self._ending = frozenset(numbers)

    def on_request(self, number: signal.Signals) -> None:
        """Sets `asked` at this signal; to be called before on_signals()."""
        signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: object) -> None:
        self.asked = True

    def now(self) -> None:
        """Ends the trace; from any thread."""
        self._deadline = time.monotonic()

    def ends(self, fd: int) -> bool:
        """Whether an event of one of `fds` is the end."""
        if fd in self._watchers:
            return self._watchers[fd]()
        if fd != self._signals:
            return True
        # A byte for each signal, that of on_request() included.
        came = os.read(fd, 512)
        for number in self._notes.keys() & came:
            self._notes[number]()
        return not self._ending.isdisjoint(came)

    def on_note(self, number: signal.Signals, call: Callable[[], None]) -> None:
        """Calls at this signal, while waiting; to be called after on_signals()."""
        signal.signal(number, lambda *_: None)
        self._notes[number] = call

    def watch(self, fd: int, events: int, call: Callable[[], bool]) -> None:
        """Calls at these epoll events, while waiting; ends the trace if it says so."""
        self.fds[fd] = events
        self._watchers[fd] = call

    def when_unread(self, fd: int) -> None:
        """Ends the trace when a pipe's or terminal's other end is closed."""
        self.fds[fd] = 0  # EPOLLERR and EPOLLHUP are always reported


def _default_next_time(number: int, _frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)
