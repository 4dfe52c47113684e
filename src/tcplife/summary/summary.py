"""Summaries: sessions, or changes of state, added up by groups.

They merge: of several hosts, of several intervals, in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tcplife.summary.histogram import Histogram as Histogram
from tcplife.summary.keys import (
    DEFAULT_BY,
    KEYS,
    OTHER,
    QUANTITIES,
    STATE_BY,
    checked_by,
    of_session,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tcplife.records.session import Session

    Key = tuple[Any, ...]


class Group:
    """Sessions, or changes of state, that have something in common.

    count: of them. ends: how many sessions ended how. quantities: `ms`, `connect` and
    `rtt` in microseconds, `tx` and `rx` in bytes; `connect` and `rtt` of the sessions
    only that have one, and a state's `ms` of those only whose beginning was seen.
    """

    __slots__ = ("count", "ends", "quantities", "retrans", "segs_out")

    def __init__(self) -> None:
        self.count = 0
        self.ends: dict[str, int] = {}
        self.retrans = 0
        self.segs_out = 0
        self.quantities = {name: Histogram() for name in QUANTITIES}

    @property
    def failed(self) -> int:
        """How many ended, but not well."""
        fine = ("closed", "open")
        return sum(count for end, count in self.ends.items() if end not in fine)

    @property
    def retrans_share(self) -> float | None:
        """Segments sent again, of all that were sent."""
        return self.retrans / self.segs_out if self.segs_out else None

    def merge(self, other: Group) -> None:
        self.count += other.count
        self.retrans += other.retrans
        self.segs_out += other.segs_out
        for end, count in other.ends.items():
            self.ends[end] = self.ends.get(end, 0) + count
        for name, histogram in other.quantities.items():
            self.quantities[name].merge(histogram)

    def to_list(self) -> list[Any]:
        histograms = {
            name: [h.count, h.total, h.most, list(h.buckets.items())]
            for name, h in self.quantities.items()
        }
        return [self.count, self.ends, self.retrans, self.segs_out, histograms]

    @classmethod
    def from_list(cls, told: list[Any]) -> Group:
        made = cls()
        made.count, made.ends, made.retrans, made.segs_out, histograms = told
        for name, (count, total, most, buckets) in histograms.items():
            histogram = made.quantities[name]
            histogram.count, histogram.total, histogram.most = count, total, most
            histogram.buckets = dict(buckets)
        return made

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Group):
            return NotImplemented
        return all(getattr(self, n) == getattr(other, n) for n in self.__slots__)

    __hash__ = None  # type: ignore[assignment]


class Summary:
    """Groups by their keys, which have a value for each name in `by`.

    seconds: how long it took to see them. limit: how many groups there may be; the
    rest goes to OTHER, the key of the group of all that have no group of their own.
    """

    __slots__ = ("by", "groups", "limit", "seconds")

    def __init__(
        self, by: Sequence[str] = DEFAULT_BY, limit: int | None = None
    ) -> None:
        self.by = checked_by("by=", by, (*KEYS, *STATE_BY))
        self.limit = limit
        self.groups: dict[Key, Group] = {}
        self.seconds = 0.0

    def group(self, key: Key) -> Group:
        """The group with this key, which is made if there is none."""
        found = self.groups.get(key)
        if found is None:
            # OTHER has its place beside them.
            full = self.limit == len(self.groups) - (OTHER in self.groups)
            if full or key == OTHER:
                return self.groups.setdefault(OTHER, Group())
            found = self.groups[key] = Group()
        return found

    def add(self, session: Session) -> None:
        """Adds one. Raises AttributeError if it lacks what `by` names."""
        group = self.group(tuple(of_session(session, name) for name in self.by))
        group.count += 1
        group.retrans += session.retrans
        group.segs_out += session.segs_out
        group.ends[session.end] = group.ends.get(session.end, 0) + 1
        quantities = group.quantities
        quantities["ms"].add(round(session.ms * 1000))
        if session.connect_ms is not None:
            quantities["connect"].add(round(session.connect_ms * 1000))
        quantities["tx"].add(session.tx_bytes)
        quantities["rx"].add(session.rx_bytes)
        if session.rtt_ms is not None:
            quantities["rtt"].add(round(session.rtt_ms * 1000))

    def to_json(self) -> str:
        """All of it, for from_json()."""
        import json

        groups = [[list(key), group.to_list()] for key, group in self.groups.items()]
        return json.dumps({"by": self.by, "seconds": self.seconds, "groups": groups})

    @classmethod
    def from_json(cls, text: str) -> Summary:
        """Raises ValueError if it is not what to_json() gave."""
        import json

        try:
            told = json.loads(text)
            made = cls(told["by"])
            made.seconds = told["seconds"]
            for key, group in told["groups"]:
                made.groups[tuple(key)] = Group.from_list(group)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no summary: {error}") from None
        return made

    def merge(self, other: Summary) -> None:
        """Adds what `other` has. Of several hosts at one time, `seconds` is not
        theirs in all: set it yourself. Raises ValueError unless `by` is the same."""
        if other.by != self.by:
            raise ValueError(f"summaries by {self.by} and by {other.by} do not merge")
        self.seconds += other.seconds
        for key, group in other.groups.items():
            self.group(key).merge(group)

    def regrouped(self, by: Sequence[str]) -> Summary:
        """By some of the same names only."""
        places = [self.by.index(name) for name in by]
        summary = Summary(by)
        summary.seconds = self.seconds
        for key, group in self.groups.items():
            kept = key if key == OTHER else tuple(key[n] for n in places)
            summary.group(kept).merge(group)
        return summary

    def others(self) -> int:
        """How many have no group of their own."""
        return self.groups[OTHER].count if OTHER in self.groups else 0

    def total(self) -> Group:
        total = Group()
        for group in self.groups.values():
            total.merge(group)
        return total

    def top(self, number: int | None, order: str = "count") -> list[tuple[Key, Group]]:
        """The first groups by ORDERS; the rest, if any, as OTHER at the end."""
        rank = ORDERS[order]
        groups = [(key, group) for key, group in self.groups.items() if key != OTHER]
        # By their keys, too, so that what is equal keeps its place.
        groups.sort(key=lambda item: (-rank(item[1]), tuple(map(str, item[0]))))
        shown = groups[:number]
        rest = Group()
        for _, group in groups[len(shown) :]:
            rest.merge(group)
        if OTHER in self.groups:
            rest.merge(self.groups[OTHER])
        if rest.count:
            shown.append((OTHER, rest))
        return shown


def _percentile(share: float, quantity: str = "ms") -> Callable[[Group], float]:
    return lambda group: group.quantities[quantity].quantile(share) or 0


# What groups may be sorted by, the greatest first.
ORDERS: dict[str, Callable[[Group], float]] = {
    "count": lambda group: group.count,
    "failed": lambda group: group.failed,
    "p50": _percentile(0.5),
    "p90": _percentile(0.9),
    "p99": _percentile(0.99),
    "max": lambda group: group.quantities["ms"].most,
    "connect": _percentile(0.99, "connect"),
    "tx": lambda group: group.quantities["tx"].total,
    "rx": lambda group: group.quantities["rx"].total,
    "retrans": lambda group: group.retrans_share or 0,
}
