"""What to trace: checked once, then handed to the kernel side or a replay."""

from __future__ import annotations

from collections.abc import Sequence

Ports = Sequence[tuple[int, int]]
Subnets = Sequence[tuple[bytes, int]]


class Filter:
    """All of it must hold for a session to be shown. Empty and 0: any.

    pids: of the owner, as the initial PID namespace counts.
    local_ports, remote_ports: inclusive ranges.
    states: numbers of TCP states (include/net/tcp_states.h), for state changes out
        of or into these.
    family: 4 or 6. IPv4 mapped into IPv6 counts as 4.

    The rest is for sessions only:

    local_subnets, remote_subnets: 16 bytes of address, IPv4 mapped into IPv6, and
        the length of the prefix in bits of those.
    comms: names of the owner's process, at most 15 bytes each.
    users: names, where only a recording knows their numbers.
    uids: of the owner, as the initial user namespace counts.
    namespaces: inodes of network namespaces.
    cgroup: a folder in the cgroup2 file system; what is below it counts, too.
    direction: 1 for out, 2 for in, as in values.DIRS.
    ends: numbers of values.ENDS.
    min_us: lifespan, as it is shown. min_bytes: both ways. slower_connect_us: how
        long a connect took, or tried in vain.
    """

    __slots__ = (
        "cgroup",
        "comms",
        "direction",
        "ends",
        "family",
        "local_ports",
        "local_subnets",
        "min_bytes",
        "min_us",
        "namespaces",
        "pids",
        "remote_ports",
        "remote_subnets",
        "slower_connect_us",
        "states",
        "uids",
        "users",
    )

    def __init__(
        self,
        pids: Sequence[int] = (),
        local_ports: Ports = (),
        remote_ports: Ports = (),
        family: int = 0,
        states: Sequence[int] = (),
        local_subnets: Subnets = (),
        remote_subnets: Subnets = (),
        comms: Sequence[bytes] = (),
        uids: Sequence[int] = (),
        namespaces: Sequence[int] = (),
        cgroup: str = "",
        direction: int = 0,
        ends: Sequence[int] = (),
        min_us: int = 0,
        min_bytes: int = 0,
        slower_connect_us: int = 0,
        users: Sequence[str] = (),
    ) -> None:
        self.pids = pids
        self.local_ports = local_ports
        self.remote_ports = remote_ports
        self.family = family
        self.states = states
        self.local_subnets = local_subnets
        self.remote_subnets = remote_subnets
        self.comms = comms
        self.uids = uids
        self.namespaces = namespaces
        self.cgroup = cgroup
        self.direction = direction
        self.ends = ends
        self.min_us = min_us
        self.min_bytes = min_bytes
        self.slower_connect_us = slower_connect_us
        self.users = users

    def needs_story(self) -> bool:
        """Whether a session's whole story must be known to judge it."""
        return bool(
            self.local_subnets
            or self.remote_subnets
            or self.comms
            or self.uids
            or self.namespaces
            or self.cgroup
            or self.direction
            or self.ends
            or self.min_us
            or self.min_bytes
            or self.slower_connect_us
        )
