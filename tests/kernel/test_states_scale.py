"""100,000 sessions open at once: no change is lost, no duration is wrong."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from .changes import CsvFile, lives, path
from .netns import Network
from .scenarios import Stage
from .test_scale import BATCH, PAIRS, PER_PAIR
from .tracer import STATES, ours

PORT = 8001
FIRST = "FIN_WAIT1 FIN_WAIT2 CLOSE"
SECOND = "CLOSE_WAIT LAST_ACK CLOSE"
CHANGES = 5  # of each end


def test_100_000_open_sessions_are_followed(network: Network, tmp_path: Path) -> None:
    began = time.monotonic()
    total = 2 * PAIRS * PER_PAIR
    with ExitStack() as stack:
        stage = Stage(network, "ipv4")
        stack.callback(stage.close)
        prefix = f"127.{1 + (os.getpid() >> 8 & 127)}.{os.getpid() & 255}"
        addresses = [f"{prefix}.{n}" for n in range(1, PAIRS + 1)]
        clients = [stage.client() for _ in addresses]
        servers = [stage.client() for _ in addresses]
        for remote in clients + servers:
            remote.call("raise_files_limit", PER_PAIR + 100)
        for server, address in zip(servers, addresses, strict=True):
            server.call("listen", "l", address, PORT)
        # The servers' ends are held back until their owner is known.
        pids = ",".join(str(remote.pid) for remote in clients + servers)
        output = stack.enter_context((tmp_path / "rows").open("wb"))
        tracer = stack.enter_context(
            ours("-s", "-t", "-p", pids, tool=STATES, stdout=output)
        )

        for _ in range(0, PER_PAIR, BATCH):
            for client, address in zip(clients, addresses, strict=True):
                client.order("connect_many", address, PORT, BATCH)
            for client in clients:
                client.answer()
            for server in servers:
                server.order("accept_many", "l", BATCH)
            for server in servers:
                server.answer()

        half = PAIRS // 2
        for remote in (
            *clients[:half],
            *servers[half:],
            *servers[:half],
            *clients[half:],
        ):
            remote.call("close_many")
        rows = CsvFile(tmp_path / "rows")
        deadline = time.monotonic() + 30
        while rows.count() < total * CHANGES and time.monotonic() < deadline:
            time.sleep(0.1)
        assert tracer.stop() == 0
    took_us = (time.monotonic() - began) * 1_000_000

    assert not [line for line in tracer.errors if "lost" in line or "drop" in line]
    found = lives(rows.changes())
    assert Counter(map(path, found)) == {
        f"CLOSE SYN_SENT ESTABLISHED {FIRST}": total // 4,
        f"CLOSE SYN_SENT ESTABLISHED {SECOND}": total // 4,
        f"LISTEN SYN_RECV ESTABLISHED {FIRST}": total // 4,
        f"LISTEN SYN_RECV ESTABLISHED {SECOND}": total // 4,
    }
    keys = {life[-1].key for life in found}
    assert len(keys) == total
    assert keys == {(*key[2:], *key[:2]) for key in keys}
    for life in found:
        durations = [change.us or 0 for change in life]
        assert durations[0] == 0
        assert min(durations) >= 0
        assert max(durations) <= took_us
        assert abs(sum(durations) - (life[-1].at_us - life[0].at_us)) <= 1
