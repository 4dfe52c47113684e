"""What to trace: parsed and checked once, then handed to the kernel side."""

from __future__ import annotations

import os
from errno import ENOTTY
from math import ceil

from tcplife.columns.values import DIRS, ENDS, STATES
from tcplife.errors import UsageError

# include/linux/threads.h: PID_MAX_LIMIT on 64-bit machines
PID_MAX = 4 * 1024 * 1024

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol, TypeVar

    Parsed = TypeVar("Parsed")

    class Parser(Protocol[Parsed]):
        def __call__(self, option: str, text: str) -> list[Parsed]: ...


def parse_ports(option: str, text: str) -> list[tuple[int, int]]:
    """The ranges of ports in `80,https,8000-8999`.

    Raises UsageError, naming `option`.
    """
    ranges = []
    for item in text.split(","):
        first, dash, last = item.partition("-")
        low = _number(first, 65535)
        high = _number(last, 65535) if dash else low
        if low is None or high is None:
            low = high = _service(item.strip())
        if low is None or high is None:
            raise UsageError(
                f"{option} {text}: {item.strip()!r} is no port and no service; give"
                " numbers from 0 to 65535, ranges, and names of /etc/services, like"
                " 80,8000-8999,https"
            )
        if low > high:
            raise UsageError(
                f"{option} {text}: the range {item.strip()} is empty;"
                f" did you mean {high}-{low}?"
            )
        ranges.append((low, high))
    return ranges


def _service(name: str) -> int | None:
    """The TCP port of a service in /etc/services (getservbyname(3))."""
    import socket  # 3 ms that only a name should pay

    try:
        return socket.getservbyname(name, "tcp")
    except OSError:
        return None


def parse_pids(option: str, text: str) -> list[int]:
    """The PIDs in `181,182`. Raises UsageError, naming `option`."""
    pids = []
    for item in text.split(","):
        pid = _number(item, PID_MAX)
        if not pid:
            raise UsageError(
                f"{option} {text}: {item.strip()!r} is not a PID;"
                f" give numbers from 1 to {PID_MAX}, like 181,182"
            )
        pids.append(pid)
    return pids


def parse_states(option: str, text: str) -> list[int]:
    """The numbers of the states in `ESTABLISHED,CLOSE`; case doesn't matter.

    Raises UsageError, naming `option`.
    """
    names = [item.strip().upper().replace("-", "_") for item in text.split(",")]
    for name in names:
        if name not in STATES:
            raise UsageError(
                f"{option} {text}: {name!r} is not a state; there are"
                f" {', '.join(STATES)}"
            )
    return [STATES[name] for name in names]


def parse_subnets(option: str, text: str) -> list[tuple[bytes, int]]:
    """The subnets in `10.0.0.0/8,fd00::/8`; an address alone is one, too."""
    import ipaddress  # 4 ms that only this should pay

    subnets = []
    for item in text.split(","):
        try:
            network = ipaddress.ip_network(_without_zone(item.strip()), strict=False)
        except ValueError:
            raise UsageError(
                f"{option} {text}: {item.strip()!r} is neither an address nor a subnet;"
                " give some like 10.0.0.0/8,192.0.2.1,2001:db8::/32"
            ) from None
        packed = network.network_address.packed
        if network.version == 4:
            subnets.append((bytes(10) + b"\xff\xff" + packed, 96 + network.prefixlen))
        else:
            subnets.append((packed, network.prefixlen))
    return subnets


def _without_zone(address: str) -> str:
    """`fe80::1` of `fe80::1%eth0` (RFC 4007, section 11): a socket's addresses have no
    zone. Raises ValueError where there can be none."""
    before, percent, after = address.partition("%")
    zone, slash, bits = after.partition("/")
    if percent and not (zone and before.lower().startswith("fe80:")):
        raise ValueError(f"no zone: {zone}")
    return before + slash + bits


def parse_comms(option: str, text: str) -> list[bytes]:
    """The process names in `nginx,curl`, as the kernel has them: cut at 15 bytes."""
    names = [os.fsencode(item)[:15] for item in text.split(",")]
    if b"" in names:
        raise UsageError(f"{option} {text}: an empty name; give some like nginx,curl")
    return names


def parse_users(option: str, text: str) -> list[int]:
    """The user IDs in `www-data,1000`."""
    import pwd

    uids = []
    for item in map(str.strip, text.split(",")):
        digits = item.lstrip("0")[:11] or "0"
        if item.isascii() and item.isdecimal() and int(digits) < 1 << 32:
            uids.append(int(digits))
            continue
        try:
            uids.append(pwd.getpwnam(item).pw_uid)
        except KeyError:
            raise UsageError(
                f"{option} {text}: there is no user {item!r}; give names or numbers"
                " (getent passwd lists them)"
            ) from None
    return uids


# include/uapi/linux/nsfs.h, sched.h
_NS_GET_NSTYPE = 0xB703
_CLONE_NEWNET = 0x40000000


def parse_namespaces(option: str, text: str) -> list[int]:
    """The inodes of the network namespaces in `self,4711,/run/netns/blue,red`."""
    inodes = []
    for item in map(str.strip, text.split(",")):
        if item == "self" or (item.isascii() and item.isdecimal()):
            path = f"/proc/{item}/ns/net"
        else:
            path = item if "/" in item else f"/run/netns/{item}"
        try:
            inodes.append(_namespace(path))
        except OSError as error:
            why = os.strerror(error.errno or 0)
            if error.errno == ENOTTY:
                why = "not a network namespace"
            raise UsageError(
                f"{option} {text}: {path}: {why}; give `self`, a PID, a path as in"
                " /proc/PID/ns/net, or a name of `ip netns`"
            ) from None
    return inodes


def _namespace(path: str) -> int:
    """The inode of a network namespace. Raises OSError, ENOTTY if it is none."""
    import fcntl

    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if fcntl.ioctl(fd, _NS_GET_NSTYPE) != _CLONE_NEWNET:
            raise OSError(ENOTTY, "another kind of namespace")
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def parse_cgroup(option: str, text: str) -> str:
    """The folder of a cgroup given by it, or by its path below the root."""
    from tcplife.columns.cgroup_paths import mount_point

    root = mount_point()
    if root is None:
        raise UsageError(f"{option} {text}: this host has no cgroup2 file system")
    path = os.path.normpath(text)
    if text and path != root and not path.startswith(root.rstrip("/") + "/"):
        path = os.path.normpath(f"{root}/{path.lstrip('/')}")
    inside = path == root or path.startswith(root.rstrip("/") + "/")
    if not (text and inside and os.path.isdir(path)):
        raise UsageError(
            f"{option} {text}: no such cgroup: {path}; `systemd-cgls` or"
            f" `find {root} -type d` lists them"
        )
    return path


def recorded_users(text: str) -> tuple[list[int], list[str]]:
    """Numbers and names in `www-data,1000`, of a host that cannot be asked."""
    items = [item.strip() for item in text.split(",")]
    numbers = [item for item in items if item.isascii() and item.isdecimal()]
    names = [item for item in items if item not in numbers]
    return [int(number[:11]) for number in numbers], names


def recorded_namespaces(option: str, text: str) -> list[int]:
    """The inodes in `4026531840,4026532290`, as the column NETNS shows them."""
    inodes = [_number(item, (1 << 32) - 1, digits=10) for item in text.split(",")]
    if None in inodes:
        raise UsageError(
            f"{option} {text}: of a recording's namespaces only the inodes are known;"
            " give some as NETNS shows them (-o +netns)"
        )
    return [inode for inode in inodes if inode is not None]


def recorded_cgroup(text: str) -> str:
    """The path below the root, as the column CGROUP shows it."""
    path = os.path.normpath(f"/{text.lstrip('/')}")
    return path.removeprefix("/sys/fs/cgroup") or "/"


def parse_direction(option: str, text: str) -> int:
    if text not in DIRS[1:]:
        raise UsageError(f"{option} {text}: there are in and out")
    return DIRS.index(text)


# What `failed` stands for among ENDS.
FAILED = [number for number, end in enumerate(ENDS) if end not in ("open", "closed")]


def parse_ends(option: str, text: str) -> list[int]:
    """The numbers of the ends in `refused,timeout`; `failed`: all but clean ones."""
    ends: list[int] = []
    for item in map(str.strip, text.split(",")):
        if item == "failed":
            ends += FAILED
        elif item in ENDS:
            ends.append(ENDS.index(item))
        else:
            raise UsageError(
                f"{option} {text}: {item!r} is no way to end; there are"
                f" {', '.join(ENDS)}, and failed for all but closed"
            )
    return ends


def microseconds(milliseconds: float) -> int:
    """Rounded up: what is shown is cut."""
    # 2.007 * 1000 is a little above 2007.
    return ceil(round(milliseconds * 1000, 6))


# What stands behind a number of bytes.
SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
AMOUNT_MAX = 1e15


def parse_amount(option: str, text: str) -> float:
    """A number, 0 or more. Raises UsageError, naming `option`."""
    try:
        amount = float(text)
    except ValueError:
        amount = -1
    if not 0 <= amount < AMOUNT_MAX:
        raise UsageError(
            f"{option} {text}: give a number from 0 to below {AMOUNT_MAX:.0e}, as in"
            " 1.5"
        )
    return amount


def parse_size(option: str, text: str) -> float:
    """A number of bytes: `4096`, `10k`, `1.5M`. Raises UsageError, naming `option`."""
    unit = SIZES.get(text[-1:].upper(), 0)
    try:
        size = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        size = -1
    if not 0 <= size < AMOUNT_MAX:
        raise UsageError(
            f"{option} {text}: give bytes from 0 to below {AMOUNT_MAX:.0e}, as in 4096,"
            " 10k or 1.5M"
        )
    return size


def _number(text: str, limit: int, digits: int = 9) -> int | None:
    text = text.strip()
    # isdecimal() alone would take other scripts' digits
    if not (text.isascii() and text.isdecimal()) or len(text) > digits:
        return None
    number = int(text)
    return number if number <= limit else None
