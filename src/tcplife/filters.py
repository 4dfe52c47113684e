"""What to trace: parsed and checked once, then handed to the kernel side."""

from __future__ import annotations

from collections.abc import Sequence

from tcplife.errors import UsageError
from tcplife.values import STATES

# include/linux/threads.h: PID_MAX_LIMIT on 64-bit machines
PID_MAX = 4 * 1024 * 1024

Ports = Sequence[tuple[int, int]]


class Filter:
    """All of it must hold for a session to be shown.

    pids: of the owner, as the initial PID namespace counts; empty: any.
    local_ports, remote_ports: inclusive ranges; empty: any.
    states: numbers of TCP states (include/net/tcp_states.h), for state changes out
        of or into these; empty: any.
    family: 4, 6, or 0 for both. IPv4 mapped into IPv6 counts as 4.
    """

    __slots__ = ("family", "local_ports", "pids", "remote_ports", "states")

    def __init__(
        self,
        pids: Sequence[int] = (),
        local_ports: Ports = (),
        remote_ports: Ports = (),
        family: int = 0,
        states: Sequence[int] = (),
    ) -> None:
        self.pids = pids
        self.local_ports = local_ports
        self.remote_ports = remote_ports
        self.family = family
        self.states = states


def parse_ports(option: str, text: str) -> list[tuple[int, int]]:
    """The ranges of ports in `80,443,8000-8999`.

    Raises UsageError, naming `option`.
    """
    ranges = []
    for item in text.split(","):
        first, dash, last = item.partition("-")
        low = _number(first, 65535)
        high = _number(last, 65535) if dash else low
        if low is None or high is None:
            raise UsageError(
                f"{option} {text}: {item.strip()!r} is not a port;"
                " give numbers from 0 to 65535 and ranges, like 80,8000-8999"
            )
        if low > high:
            raise UsageError(
                f"{option} {text}: the range {item.strip()} is empty;"
                f" did you mean {high}-{low}?"
            )
        ranges.append((low, high))
    return ranges


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


def _number(text: str, limit: int) -> int | None:
    text = text.strip()
    # isdecimal() alone would take other scripts' digits
    if not (text.isascii() and text.isdecimal()) or len(text) > 9:
        return None
    number = int(text)
    return number if number <= limit else None
