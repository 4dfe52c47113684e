"""Owner and bytes, of both ends, in every scenario and address family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from .blind import blind_spots
from .netns import Network
from .scenarios import FAMILIES, SCENARIOS, End, Key, Plays, all_ends, play_all
from .tracer import Row, ours


class Traced(NamedTuple):
    plays: Plays
    rows: dict[Key, list[Row]]
    in_time: set[Key]  # reported while the held sockets were still held
    errors: list[str]
    status: int
    hidden: set[Key]  # by this machine's kernel: see blind.py


@pytest.fixture(scope="module")
def traced(network: Network) -> Iterator[Traced]:
    """Play everything once, under one tracer; the tests look at what it said."""
    with blind_spots() as blind, ours("--json") as tracer:
        with play_all(network) as plays:
            ends = all_ends(plays)
            hidden = set(blind.keys())
            tracer.wait_for_ends(end for end in ends if end.key not in hidden)
            in_time = set(tracer.rows())
        status = tracer.stop()
        hidden = set(blind.keys())
        yield Traced(plays, tracer.rows(), in_time, tracer.errors, status, hidden)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_end_is_reported_once_and_right(
    traced: Traced, scenario: str, family: str
) -> None:
    ends = traced.plays[scenario, family].result()
    ends = [end for end in ends if end.key not in traced.hidden]
    rows = [row for end in ends for row in traced.rows.get(end.key, ())]
    assert [end_of(row) for row in rows] == ends
    assert {row.ip for row in rows} <= {6 if family == "ipv6" else 4}
    assert {end.key for end in ends} <= traced.in_time


def end_of(row: Row) -> End:
    return End._make(getattr(row, name) for name in End._fields)


def test_nothing_was_lost(traced: Traced) -> None:
    assert traced.status == 0
    assert not [line for line in traced.errors if "lost" in line or "drop" in line]
