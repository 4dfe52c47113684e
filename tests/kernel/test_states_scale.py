"""100,000 sessions open at once: no change is lost, no duration is wrong."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from .changes import CsvFile, lives, path
from .crowd import ENDS, Crowd
from .netns import Network
from .tracer import STATES, ours

PORT = 8001
FIRST = "FIN_WAIT1 FIN_WAIT2 CLOSE"
SECOND = "CLOSE_WAIT LAST_ACK CLOSE"
CHANGES = 5  # of each end


def test_100_000_open_sessions_are_followed(network: Network, tmp_path: Path) -> None:
    began = time.monotonic()
    with ExitStack() as stack:
        crowd = Crowd(network, stack, PORT)
        output = stack.enter_context((tmp_path / "rows").open("wb"))
        tracer = stack.enter_context(ours("-s", "-t", tool=STATES, stdout=output))
        crowd.open()
        crowd.close()
        rows = CsvFile(tmp_path / "rows")
        deadline = time.monotonic() + 30
        while rows.count() < ENDS * CHANGES and time.monotonic() < deadline:
            time.sleep(0.1)
        assert tracer.stop() == 0
    took_us = (time.monotonic() - began) * 1_000_000

    assert not [line for line in tracer.errors if "lost" in line or "drop" in line]
    found = lives(rows.changes())
    assert Counter(map(path, found)) == {
        f"CLOSE SYN_SENT ESTABLISHED {FIRST}": ENDS // 4,
        f"CLOSE SYN_SENT ESTABLISHED {SECOND}": ENDS // 4,
        f"LISTEN SYN_RECV ESTABLISHED {FIRST}": ENDS // 4,
        f"LISTEN SYN_RECV ESTABLISHED {SECOND}": ENDS // 4,
    }
    keys = {life[-1].key for life in found}
    assert len(keys) == ENDS
    assert keys == {(*key[2:], *key[:2]) for key in keys}
    for life in found:
        durations = [change.us or 0 for change in life]
        assert durations[0] == 0
        assert min(durations) >= 0
        assert max(durations) <= took_us
        assert abs(sum(durations) - (life[-1].at_us - life[0].at_us)) <= 1
