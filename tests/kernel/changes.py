"""What tcpstates says, put together again: the lives of sockets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

from .scenarios import Key
from .tracer import Tracer

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Change(NamedTuple):
    at_us: int  # JSON: since 1970; CSV: since the first row
    skaddr: str
    pid: int | None
    comm: str | None
    ip: int
    laddr: str
    lport: int
    raddr: str
    rport: int
    old: str
    new: str
    us: int | None

    @property
    def key(self) -> Key:
        return self.laddr, self.lport, self.raddr, self.rport

    @property
    def begins(self) -> bool:
        """Whether a socket begins anew with it."""
        return self.old == "CLOSE" or (self.old, self.new) == ("LISTEN", "SYN_RECV")


Life = list[Change]


def parse_json(line: str) -> Change:
    row = json.loads(line)
    time = datetime.fromisoformat(row["time"].replace("Z", "+00:00"))
    return Change(
        (time - EPOCH) // timedelta(microseconds=1),
        row["skaddr"],
        row["pid"],
        row["comm"],
        row["ip"],
        row["laddr"],
        row["lport"],
        row["raddr"],
        row["rport"],
        row["oldstate"],
        row["newstate"],
        None if row["ms"] is None else round(row["ms"] * 1000),
    )


def parse_csv(line: str) -> Change:
    """A row of `-s -t`. It has no owner."""
    # Taken from both sides: in between there may be a quoted name with commas.
    at, skaddr, _ = line.split(",", 2)
    ip, laddr, lport, raddr, rport, old, new, ms = line.rsplit(",", 8)[1:]
    return Change(
        round(float(at) * 1_000_000),
        skaddr,
        None,
        None,
        int(ip),
        laddr,
        int(lport),
        raddr,
        int(rport),
        old,
        new,
        round(float(ms) * 1000),
    )


class Feed:
    """The changes that a tracer tells, of some hosts: there are others' too."""

    def __init__(self, tracer: Tracer, hosts: Iterable[str]) -> None:
        self._tracer = tracer
        self._hosts = tuple(f'"laddr": "{host}"' for host in hosts)
        self._parsed = 0
        self._changes: list[Change] = []

    def changes(self) -> list[Change]:
        """Those so far."""
        lines = self._tracer.lines
        for line in lines[self._parsed :]:
            if any(host in line for host in self._hosts):
                self._changes.append(parse_json(line))
            self._parsed += 1
        return self._changes

    def wait_for_closed(self, keys: Iterable[Key], patience: float = 15.0) -> set[Key]:
        """Waits until all of these ends are closed; returns those that are not."""
        pending = set(keys)
        seen = 0

        def all_closed() -> bool:
            nonlocal seen
            changes = self.changes()
            pending.difference_update(
                change.key for change in changes[seen:] if change.new == "CLOSE"
            )
            seen = len(changes)
            return not pending

        self._tracer.wait_for(all_closed, patience)
        return pending


def lives(changes: Iterable[Change]) -> list[Life]:
    """Changes in order, by the socket, split where a socket begins anew."""
    current: dict[str, Life] = {}
    found = []
    for change in changes:
        life = current.get(change.skaddr)
        if life is None or change.begins or life[-1].new == "CLOSE":
            life = current[change.skaddr] = []
            found.append(life)
        life.append(change)
    return found


def by_key(all_lives: Iterable[Life]) -> dict[Key, list[Life]]:
    """By the session's end, which a life has got at its end."""
    found: dict[Key, list[Life]] = {}
    for life in all_lives:
        found.setdefault(life[-1].key, []).append(life)
    return found


def path(life: Life) -> str:
    """All the states; a question mark where one doesn't follow the other."""
    words = [life[0].old]
    for change in life:
        if change.old != words[-1]:
            words.append("?")
        words.append(change.new)
    return " ".join(words)


class CsvFile:
    """The output of `-s -t` in a file: for changes by the million."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def count(self) -> int:
        with self._file.open("rb") as rows:
            return sum(1 for _ in rows) - 1

    def changes(self) -> Iterator[Change]:
        with self._file.open(errors="surrogateescape") as rows:
            next(rows)
            for line in rows:
                yield parse_csv(line.rstrip("\n"))
