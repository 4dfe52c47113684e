"""How far a long replay has come, on a terminal."""

from __future__ import annotations

import os
import time

from tcplife.errors import OutputError
from tcplife.fileio import write_all

_WIDTH = 40


class Progress:
    """A bar on standard error, once it has taken a second, if that is a terminal."""

    def __init__(self, total: int) -> None:
        """total: in bytes; 0 if nobody knows."""
        self._total = total
        self._began = time.monotonic()
        self._next = self._began + 1
        self._shown = False
        self._fd = 2
        if not total or not os.isatty(self._fd):
            self._next = float("inf")

    def see(self, done: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + 0.2
        self._shown = True
        share = min(done / self._total, 1.0)
        left = (now - self._began) * (1 / share - 1) if share else 0.0
        bar = ("#" * int(share * _WIDTH)).ljust(_WIDTH)
        self._write(f"\r|{bar}| {share:4.0%}  {left:.0f} s left \x1b[K")

    def close(self) -> None:
        """Takes the bar away."""
        if self._shown:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        try:
            write_all(self._fd, text.encode())
        except OutputError:
            self._next = float("inf")
