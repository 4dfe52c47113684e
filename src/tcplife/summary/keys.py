"""What sessions are grouped by."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from tcplife.columns import values
from tcplife.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tcplife.columns.column import Lookups
    from tcplife.records.session import Session

    Key = tuple[Any, ...]

# By number, as records/abi.py has them in QUANTITY.
QUANTITIES = ("ms", "connect", "tx", "rx", "rtt")
# The group of all those that have no room, or no place in a table.
OTHER = ("(other)",)


class By:
    """Something to group by.

    fields: those of abi.SESSION_GROUP that it is made of; value: an expression over
    them.
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
    return checked_by(f"{option} ", text.lower().split(","), KEYS)


def checked_by(
    named: str, by: Iterable[str], known: Collection[str]
) -> tuple[str, ...]:
    """The same names, if they are known, or subnets. named: where they were given."""
    if isinstance(by, str):
        raise UsageError(f"{named}{by!r}: give a list, as in {named}[{by!r}]")
    names = tuple(name.strip() for name in by)
    text = named + ",".join(names)
    for name in names:
        if name not in known and subnet_bits(name) is None:
            raise UsageError(
                f"{text}: {name!r} is nothing to group by; give some of"
                f" {', '.join(KEYS)}, subnet/24"
            )
    if len(set(names)) < len(names) or sum("/" in name for name in names) > 1:
        raise UsageError(f"{text}: give each once")
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


STATE_BY = ("oldstate", "newstate")


def of_session(session: Session, name: str) -> Any:
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
