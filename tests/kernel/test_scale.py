"""100,000 sessions open at once: each of their ends is reported, once."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import ExitStack

from .netns import Network
from .scenarios import Stage
from .tracer import ours

# No address has ports enough for all sessions, and a process may have too few
# descriptors (a hard limit of 20,000 is seen in containers).
PAIRS = 10
PER_PAIR = 10_000
BATCH = 1_000  # less than a listener's queue holds
PORT = 8000


def test_each_of_100_000_open_sessions_is_reported(network: Network) -> None:
    with ExitStack() as stack:
        stage = Stage(network, "ipv4")
        stack.callback(stage.close)
        # On the client's loopback device; addresses follow the PID, as in netns.
        prefix = f"127.{1 + (os.getpid() >> 8 & 127)}.{os.getpid() & 255}"
        addresses = [f"{prefix}.{n}" for n in range(1, PAIRS + 1)]
        clients = [stage.client() for _ in addresses]
        servers = [stage.client() for _ in addresses]
        for remote in clients + servers:
            remote.call("raise_files_limit", PER_PAIR + 100)
        for server, address in zip(servers, addresses, strict=True):
            server.call("listen", "l", address, PORT)
        pids = [remote.pid for remote in clients + servers]
        tracer = stack.enter_context(ours("--json", "-p", ",".join(map(str, pids))))

        for _ in range(0, PER_PAIR, BATCH):
            for client, address in zip(clients, addresses, strict=True):
                client.order("connect_many", address, PORT, BATCH)
            for client in clients:
                client.answer()
            for server in servers:
                server.order("accept_many", "l", BATCH)
            for server in servers:
                server.answer()
        assert tracer.lines == []

        # Half of the clients close first, half of the servers do. One process at a
        # time: this is about how many are open, not about how fast they close.
        half = PAIRS // 2
        for remote in (
            *clients[:half],
            *servers[half:],
            *servers[:half],
            *clients[half:],
        ):
            remote.call("close_many")
        total = 2 * PAIRS * PER_PAIR
        tracer.wait_for(lambda: len(tracer.lines) >= total, patience=30)
        assert tracer.stop() == 0

    assert not [line for line in tracer.errors if "lost" in line or "drop" in line]
    rows = [row for rows in tracer.rows().values() for row in rows]
    keys = {row.key for row in rows}
    assert len(rows) == len(keys) == total
    # Each session has its two ends, and each process its own sessions.
    assert keys == {(*key[2:], *key[:2]) for key in keys}
    assert Counter((row.pid, row.raddr) for row in rows if row.rport == PORT) == {
        (client.pid, address): PER_PAIR
        for client, address in zip(clients, addresses, strict=True)
    }
    assert Counter((row.pid, row.laddr) for row in rows if row.lport == PORT) == {
        (server.pid, address): PER_PAIR
        for server, address in zip(servers, addresses, strict=True)
    }
    assert {(row.tx_bytes, row.rx_bytes) for row in rows} == {(0, 0)}
