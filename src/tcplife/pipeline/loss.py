"""What was lost, reported as it grows."""

from __future__ import annotations

import time
from collections.abc import Callable

from tcplife.records.batch import Loss

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass


class LossReport:
    """Says what was lost: while it grows, at most once a second; and at the end."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._last = Loss()
        self._not_before = 0.0

    def see(self, loss: Loss) -> None:
        if loss is not self._last:
            grown = loss.total() > self._last.total()
            self._last = loss
            if grown and time.monotonic() >= self._not_before:
                self._tell()
                self._not_before = time.monotonic() + 1

    def finish(self) -> None:
        if self._last.total():
            self._tell()

    def _tell(self) -> None:
        loss = self._last
        parts = [
            f"{number} {what}"
            for number, what in (
                (loss.events, "rows found the ring buffer full"),
                (loss.sessions, "sessions could not be followed for want of memory"),
                (loss.unresolved, "sessions ended with nobody to name as their owner"),
            )
            if number
        ]
        self._say(f"lost: {', '.join(parts)}")
