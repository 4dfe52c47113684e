"""100,000 sessions open at once: each of their ends is reported, once."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

from .blind import blind_spots
from .crowd import ENDS, Crowd
from .netns import Network
from .tracer import ours

PORT = 8000


def test_each_of_100_000_open_sessions_is_reported(crowded: Network) -> None:
    with ExitStack() as stack:
        crowd = Crowd(crowded, stack, PORT)
        pids = ",".join(map(str, crowd.pids))
        blind = stack.enter_context(blind_spots())
        tracer = stack.enter_context(ours("--json", "-p", pids))
        crowd.open()
        assert tracer.lines == []
        crowd.close()
        tracer.wait_for(
            lambda: len(tracer.lines) >= ENDS - len(set(blind.keys())), patience=30
        )
        assert tracer.stop() == 0
        unseen = set(filter(crowd.has, blind.keys()))

    assert not [line for line in tracer.errors if "lost" in line or "drop" in line]
    rows = [
        row for rows in tracer.rows().values() for row in rows if row.key not in unseen
    ]
    keys = {row.key for row in rows}
    assert len(rows) == len(keys) == ENDS - len(unseen)
    # Each session has its two ends, and each process its own sessions.
    keys |= unseen
    assert keys == {(*key[2:], *key[:2]) for key in keys}
    clients = dict(zip(crowd.addresses, crowd.clients, strict=True))
    servers = dict(zip(crowd.addresses, crowd.servers, strict=True))
    for row in rows:
        owner = servers[row.laddr] if row.lport == PORT else clients[row.raddr]
        assert row.pid == owner.pid
        assert (row.tx_bytes, row.rx_bytes) == (0, 0)
    assert Counter(row.lport == PORT for row in rows)[True] == ENDS // 2 - sum(
        map(crowd.accepted, unseen)
    )
