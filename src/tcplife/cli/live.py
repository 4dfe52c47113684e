"""The live view of a summary: redrawn each interval, with keys to sort and group."""

from __future__ import annotations

import curses
import os
import select
import signal
from collections.abc import Iterator

from tcplife.cli.summarize import View
from tcplife.pipeline.loop import Stop
from tcplife.summary.summary import ORDERS, Summary

KEYS = "q quit  s sort  g group  h histogram  t total or interval  space pause"


class Live:
    """Draws on the terminal. What it shows when it ends is left on it."""

    def __init__(self, view: View, max_groups: int) -> None:
        self._view = view
        self._max_groups = max_groups
        self._hist = view.hist or "ms"
        self._orders = list(ORDERS)
        self._total: Summary | None = None
        self._piece: Summary | None = None
        self._whole = False
        self._paused = False
        self._screen: curses.window | None = None

    def run(self, pieces: Iterator[Summary], stop: Stop) -> None:
        last: list[str] = []
        stop.watch(0, select.EPOLLIN, self._on_keys)
        stop.on_note(signal.SIGWINCH, self._on_resize)
        try:
            self._open()
            self._draw()
            for piece in pieces:
                self._piece = piece
                if self._total is None:
                    self._total = Summary(piece.by, self._max_groups)
                self._total.merge(piece)
                if not self._paused:
                    self._draw()
        finally:
            self._close()
        if self._total:
            last = list(self._view.lines(self._total, 0, repeated=False))
        os.write(1, "".join(f"{line}\n" for line in last).encode())

    def others(self) -> int:
        """How many have no group of their own in the total."""
        return self._total.others() if self._total else 0

    def _open(self) -> None:
        self._screen = curses.initscr()
        curses.noecho()
        curses.cbreak()
        self._screen.nodelay(True)
        self._screen.keypad(True)

    def _close(self) -> None:
        if self._screen:
            self._screen = None
            curses.nocbreak()
            curses.echo()
            curses.endwin()

    def _draw(self) -> None:
        screen = self._screen
        if screen is None:
            return
        lines, columns = screen.getmaxyx()
        what = "since it began" if self._whole else "the last interval"
        title = f"by {self._view.order}, {what}{', paused' if self._paused else ''}"
        text = [f"{title}    {KEYS}", ""]
        shown = self._total if self._whole else self._piece
        if shown is None:
            text.append("waiting for the first interval")
        else:
            text += self._view.lines(shown, 0, repeated=False)
        screen.erase()
        for number, line in enumerate(text[: lines - 1]):
            screen.addnstr(number, 0, line, columns - 1)
        screen.refresh()

    def _on_resize(self) -> None:
        size = os.get_terminal_size(1)
        curses.resizeterm(size.lines, size.columns)
        self._draw()

    def _on_keys(self) -> bool:
        """Whether it is to end."""
        screen = self._screen
        while screen and (key := screen.getch()) != -1:
            if key in (ord("q"), 3):
                return True
            self._on_key(key)
        self._draw()
        return False

    def _on_key(self, key: int) -> None:
        if key == ord("s"):
            at = self._orders.index(self._view.order)
            self._view.order = self._orders[(at + 1) % len(self._orders)]
        elif key == ord("g") and self._piece:
            by = self._piece.by
            groupings: list[tuple[str, ...] | None] = [None, *((name,) for name in by)]
            at = groupings.index(self._view.by)
            self._view.by = groupings[(at + 1) % len(groupings)]
        elif key == ord("t"):
            self._whole = not self._whole
        elif key == ord("h"):
            self._view.hist = None if self._view.hist else self._hist
        elif key == ord(" "):
            self._paused = not self._paused
