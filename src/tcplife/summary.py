"""Summaries: sessions, or changes of state, added up by groups.

They merge: of several hosts, of several intervals, in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tcplife import values
from tcplife.errors import UsageError
from tcplife.histogram import Histogram as Histogram
from tcplife.sinks.rows import Memo, fields_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tcplife.api import Session
    from tcplife.events import Wire
    from tcplife.sinks.rows import Lookups

    Key = tuple[Any, ...]

# bpf/groups.h, enum quantity: their names, in its order
QUANTITIES = ("ms", "connect", "tx", "rx", "rtt")
# The group of all those that have no room, or no place in a table.
OTHER = ("(other)",)


class By:
    """Something to group by.

    fields: those of struct session_group (bpf/groups.h) that it is made of; value:
    an expression over them, or over `end` and the like.
    """

    __slots__ = ("fields", "form", "meaning", "title", "value")

    def __init__(
        self, title: str, form: str, meaning: str, fields: str, value: str
    ) -> None:
        self.title = title
        self.form = form
        self.meaning = meaning
        self.fields = fields.split()
        self.value = value


KEYS = {
    "comm": By(
        "COMM", "%-10.10s", "name of the owner's process", "comm", "c_text(comm)"
    ),
    "pid": By("PID", "%-7s", "the owner", "pid", "pid or None"),
    "dir": By("DIR", "%-3s", "in, out", "dir", "DIRS[dir]"),
    "port": By(
        "PORT",
        "%-5s",
        "the service's: of `out` sessions the remote port, of `in` ones the local one",
        "port",
        "port",
    ),
    "lport": By("LPORT", "%-5s", "local port", "lport", "lport"),
    "rport": By("RPORT", "%-5s", "remote port", "rport", "rport"),
    "laddr": By("LADDR", "%-15s", "local address", "laddr", "address(laddr)"),
    "raddr": By("RADDR", "%-15s", "remote address", "raddr", "address(raddr)"),
    "uid": By("UID", "%-5s", "the owner's user ID", "uid", "known(uid)"),
    "user": By("USER", "%-8.8s", "its name", "uid", "user_name(known(uid))"),
    "end": By("END", "%-13s", "how they ended", "end", "ENDS[end]"),
    "netns": By("NETNS", "%-10s", "network namespace", "netns", "netns"),
    "cgroup": By(
        "CGROUP", "%-24s", "the owner's cgroup", "cgroup", "cgroup_path(cgroup)"
    ),
    "container": By(
        "CONTAINER",
        "%-12.12s",
        "the owner's container",
        "cgroup",
        "container(cgroup_path(cgroup))",
    ),
    "pod": By(
        "POD",
        "%-36s",
        "the owner's Kubernetes pod",
        "cgroup",
        "pod(cgroup_path(cgroup))",
    ),
    "host": By("HOST", "%-12s", "of recordings: where they are from", "", "host(0)"),
}
DEFAULT_BY = ("comm", "dir", "port")
# How many groups the kernel side keeps apart; the rest becomes OTHER.
MAX_GROUPS = 4096


def parse_by(option: str, text: str) -> tuple[str, ...]:
    """Names of KEYS, and `subnet/24`: the network of the remote address.

    Raises UsageError.
    """
    names = tuple(name.strip().lower() for name in text.split(","))
    for name in names:
        if name not in KEYS and subnet_bits(name) is None:
            raise UsageError(
                f"{option} {text}: {name!r} is nothing to group by; give some of"
                f" {', '.join(KEYS)}, subnet/24"
            )
    if len(set(names)) < len(names) or sum("/" in name for name in names) > 1:
        raise UsageError(f"{option} {text}: give each once")
    return names


def subnet_bits(name: str) -> tuple[int, int] | None:
    """Of `subnet/N`: how many bits of an IPv4, and of an IPv6 address.

    Up to 32 it is of IPv4, and IPv6 goes by the usual 64.
    """
    word, _, number = name.partition("/")
    if word != "subnet" or not number.isascii() or not number.isdecimal():
        return None
    bits = int(number[:4])
    if bits > 128:
        return None
    return (bits, 64) if bits <= 32 else (32, bits)


def subnet_masks(bits: tuple[int, int]) -> tuple[bytes, bytes]:
    """What of an address counts, by the bits of IPv4 (mapped) and of IPv6."""
    four, six = (((1 << n) - 1) << (128 - n) for n in (96 + bits[0], bits[1]))
    return four.to_bytes(16, "big"), six.to_bytes(16, "big")


def _masked(raw: bytes, masks: tuple[bytes, bytes]) -> bytes:
    mask = masks[0] if values.family(raw) == 4 else masks[1]
    return bytes(a & b for a, b in zip(raw, mask, strict=True))


def key_function(
    by: Sequence[str], lookups: Lookups
) -> tuple[list[str], Callable[..., Key]]:
    """The fields that keys are made of, and the function of these that makes them."""
    names: dict[str, Any] = {**vars(values), **lookups, "known": _known}
    fields: list[str] = []
    parts = []
    for name in by:
        bits = subnet_bits(name)
        if bits is None:
            found = KEYS[name]
            fields += [field for field in found.fields if field not in fields]
            parts.append(found.value)
            continue
        masks = subnet_masks(bits)
        names["masked"] = lambda raw, masks=masks: _masked(raw, masks)
        names["bits_of"] = lambda raw, bits=bits: bits[values.family(raw) == 6]
        fields += ["raddr"] if "raddr" not in fields else []
        parts.append("f'{address(masked(raddr))}/{bits_of(raddr)}'")
    source = f"lambda {', '.join(fields)}: ({' '.join(part + ',' for part in parts)})"
    made: Callable[..., Key] = eval(source, names)  # noqa: S307
    return fields, made


def _known(uid: int) -> int | None:
    return None if uid == 0xFFFFFFFF else uid


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
    rest goes to OTHER. The key OTHER is that of the group of all
    that have no group of their own.
    """

    __slots__ = ("by", "groups", "limit", "seconds")

    def __init__(
        self, by: Sequence[str] = DEFAULT_BY, limit: int | None = None
    ) -> None:
        self.by = tuple(by)
        self.limit = limit
        self.groups: dict[Key, Group] = {}
        self.seconds = 0.0

    def group(self, key: Key) -> Group:
        """The group with this key, which is made if there is none."""
        found = self.groups.get(key)
        if found is None:
            if self.limit is not None and len(self.groups) >= self.limit:
                return self.groups.setdefault(OTHER, Group())
            found = self.groups[key] = Group()
        return found

    def add(self, session: Session) -> None:
        """Adds one. Raises AttributeError if it lacks what `by` names."""
        group = self.group(tuple(_of_session(session, name) for name in self.by))
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


def _of_session(session: Session, name: str) -> Any:
    """What KEYS makes of a record, of an object of the API."""
    if name == "port":
        if session.dir is None:
            return min(session.lport, session.rport)
        return session.rport if session.dir == "out" else session.lport
    bits = subnet_bits(name)
    if bits is None:
        return getattr(session, name)
    import ipaddress

    length = bits[0] if session.ip == 4 else bits[1]
    return str(ipaddress.ip_network(f"{session.raddr}/{length}", strict=False))


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

# From the fields of an event to those of struct session_group.
_FROM_EVENT = {
    "comm": "owner[4:]",
    "pid": "from_bytes(owner[:4], 'little')",
    "uid": "(uid if any(owner[:4]) else 0xFFFFFFFF)",
    "port": "(rport if dir == 1 else lport if dir == 2 else min(lport, rport))",
}


def session_adder(
    wire: Wire, summary: Summary, born: str, lookups: Lookups
) -> Callable[[memoryview], None]:
    """A function that adds framed records of sessions. born: the lifespan's field."""
    fields, make_key = key_function(summary.by, lookups)
    names: dict[str, Any] = {
        "from_bytes": int.from_bytes,
        "memo": Memo(lambda raw: make_key(*raw)),
    }
    key = "".join(f"{_FROM_EVENT.get(name, name)}, " for name in fields)
    line = f"memo[({key})], end, {born}, connect_us, tx_bytes, rx_bytes, srtt_us,"
    line += " retrans, segs_out"
    used = fields_of(wire, line, born)
    names["unpack"] = wire.unpacker(used).iter_unpack
    targets = "".join(f"{name}, " for name in used)
    items: Callable[[memoryview], Iterator[tuple[Any, ...]]] = eval(  # noqa: S307
        f"lambda data: (({line}) for {targets} in unpack(data))", names
    )
    group_of = summary.group
    ends = values.ENDS

    def add(data: memoryview) -> None:
        for key, end, span, connect, tx, rx, rtt, retrans, segs_out in items(data):
            group = group_of(key)
            group.count += 1
            group.retrans += retrans
            group.segs_out += segs_out
            name = ends[end]
            group.ends[name] = group.ends.get(name, 0) + 1
            quantities = group.quantities
            quantities["ms"].add(span)
            if values.ms(connect) is not None:
                quantities["connect"].add(connect)
            quantities["tx"].add(tx)
            quantities["rx"].add(rx)
            if rtt:
                quantities["rtt"].add(rtt)

    return add


STATE_BY = ("oldstate", "newstate")


def change_adder(wire: Wire, summary: Summary) -> Callable[[memoryview], None]:
    """A function that adds framed records of changes of state."""
    unpack = wire.unpacker(("span_us", "states", "first")).iter_unpack

    def add(data: memoryview) -> None:
        for span, (oldstate, newstate), first in unpack(data):
            group = summary.group((values.state(oldstate), values.state(newstate)))
            group.count += 1
            if not first:
                group.quantities["ms"].add(span)

    return add
