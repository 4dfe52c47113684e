"""100,000 sessions open at once: no change is lost, no duration is wrong."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from .blind import blind_spots
from .changes import CsvFile, lives, path
from .crowd import ENDS, Crowd
from .netns import Network
from .tracer import STATES, ours

PORT = 8001
CHANGES = 5  # of each end
BEGINS = {True: "LISTEN SYN_RECV ESTABLISHED", False: "CLOSE SYN_SENT ESTABLISHED"}
ENDINGS = {True: "FIN_WAIT1 FIN_WAIT2 CLOSE", False: "CLOSE_WAIT LAST_ACK CLOSE"}


def test_100_000_open_sessions_are_followed(crowded: Network, tmp_path: Path) -> None:
    began = time.monotonic()
    with ExitStack() as stack:
        crowd = Crowd(crowded, stack, PORT)
        pids = ",".join(map(str, crowd.pids))
        output = stack.enter_context((tmp_path / "rows").open("wb"))
        blind = stack.enter_context(blind_spots())
        tracer = stack.enter_context(
            ours("-s", "-t", "-p", pids, tool=STATES, stdout=output)
        )
        crowd.open()
        crowd.close()
        rows = CsvFile(tmp_path / "rows")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            hidden = blind.keys()
            if rows.count() >= ENDS * CHANGES - len(hidden):
                break
            time.sleep(0.1)
        assert tracer.stop() == 0
    took_us = (time.monotonic() - began) * 1_000_000

    assert not [line for line in tracer.errors if "lost" in line or "drop" in line]
    unseen = set(filter(crowd.has, hidden))
    found = [life for life in lives(rows.changes()) if life[-1].key not in unseen]
    wrong = [
        path(life)
        for life in found
        if path(life)
        != BEGINS[crowd.accepted(life[-1].key)]
        + " "
        + ENDINGS[crowd.closes_first(life[-1].key)]
    ]
    assert wrong == []
    keys = {life[-1].key for life in found}
    assert len(keys) == len(found) == ENDS - len(unseen)
    keys |= unseen
    assert keys == {(*key[2:], *key[:2]) for key in keys}
    for life in found:
        durations = [change.us or 0 for change in life]
        assert durations[0] == 0
        assert min(durations) >= 0
        assert max(durations) <= took_us
        assert abs(sum(durations) - (life[-1].at_us - life[0].at_us)) <= 1
