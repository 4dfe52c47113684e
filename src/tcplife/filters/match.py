"""Filters on records that do not come from the kernel, but from a program."""

from __future__ import annotations

import os

from tcplife.columns.values import DIRS, ENDS, STATES
from tcplife.filters.filter import Filter, Ports, Subnets
from tcplife.filters.parse import parse_subnets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcplife.records.session import Session, StateChange


def matches(wanted: Filter, record: Session | StateChange) -> bool:
    """Whether a record passes, for those that do not come from the kernel."""
    from tcplife.records.session import Session

    checks = {
        "pids": record.pid in wanted.pids,
        "local_ports": _within(record.lport, wanted.local_ports),
        "remote_ports": _within(record.rport, wanted.remote_ports),
        "family": record.ip == wanted.family,
    }
    if isinstance(record, Session):
        life_us = round(record.ms * 1000)
        connect_us = round((record.connect_ms or 0) * 1000)
        checks |= {
            "local_subnets": _inside(record.laddr, wanted.local_subnets),
            "remote_subnets": _inside(record.raddr, wanted.remote_subnets),
            "comms": os.fsencode(record.comm or "") in wanted.comms,
            "uids": record.uid in wanted.uids,
            "namespaces": record.netns in wanted.namespaces,
            "cgroup": _below(record.cgroup, wanted.cgroup),
            "direction": record.dir == DIRS[wanted.direction],
            "ends": ENDS.index(record.end) in wanted.ends,
            "min_us": life_us >= wanted.min_us,
            "min_bytes": record.tx_bytes + record.rx_bytes >= wanted.min_bytes,
            "slower_connect_us": connect_us >= wanted.slower_connect_us,
        }
    else:
        changed = {STATES[record.oldstate], STATES[record.newstate]}
        checks["states"] = not changed.isdisjoint(wanted.states)
    return all(holds for name, holds in checks.items() if getattr(wanted, name))


def _within(port: int, ranges: Ports) -> bool:
    return any(low <= port <= high for low, high in ranges)


def _inside(address: str, subnets: Subnets) -> bool:
    if not subnets:
        return True
    [(packed, _)] = parse_subnets("an address", address)
    number = int.from_bytes(packed, "big")
    return any(
        number >> 128 - bits == int.from_bytes(subnet, "big") >> 128 - bits
        for subnet, bits in subnets
    )


def _below(path: str | None, folder: str) -> bool:
    from tcplife.columns.cgroup_paths import mount_point

    root = (mount_point() or "").rstrip("/")
    return path is not None and f"{root}{path}/".startswith(f"{folder}/")
