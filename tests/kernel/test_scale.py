"""100,000 sessions open at once: each of their ends is reported, once."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

from .crowd import ENDS, PER_PAIR, Crowd
from .netns import Network
from .tracer import ours

PORT = 8000


def test_each_of_100_000_open_sessions_is_reported(network: Network) -> None:
    with ExitStack() as stack:
        crowd = Crowd(network, stack, PORT)
        pids = ",".join(map(str, crowd.pids))
        tracer = stack.enter_context(ours("--json", "-p", pids))
        crowd.open()
        assert tracer.lines == []
        crowd.close()
        tracer.wait_for(lambda: len(tracer.lines) >= ENDS, patience=30)
        assert tracer.stop() == 0

    assert not [line for line in tracer.errors if "lost" in line or "drop" in line]
    rows = [row for rows in tracer.rows().values() for row in rows]
    keys = {row.key for row in rows}
    assert len(rows) == len(keys) == ENDS
    # Each session has its two ends, and each process its own sessions.
    assert keys == {(*key[2:], *key[:2]) for key in keys}
    assert Counter((row.pid, row.raddr) for row in rows if row.rport == PORT) == {
        (client.pid, address): PER_PAIR
        for client, address in zip(crowd.clients, crowd.addresses, strict=True)
    }
    assert Counter((row.pid, row.laddr) for row in rows if row.lport == PORT) == {
        (server.pid, address): PER_PAIR
        for server, address in zip(crowd.servers, crowd.addresses, strict=True)
    }
    assert {(row.tx_bytes, row.rx_bytes) for row in rows} == {(0, 0)}
