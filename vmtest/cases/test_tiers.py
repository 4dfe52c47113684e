"""Owner and bytes of each session, and the order of its states, on each tier.

All sessions are played once, under both tools in each tier.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from kernel import test_states
from kernel.changes import Feed, Life, by_key, lives, path
from kernel.netns import Network
from kernel.scenarios import FAMILIES, End, Key, Plays, Stage, play_all
from kernel.test_sessions import end_of
from kernel.tracer import STATES, Row, ours

from vmtest import steps

TIERS = [int(tier) for tier in os.environ[steps.TIERS].split(",")]
Record = Callable[[str, object], None]


class Told(NamedTuple):
    """What both tools said in one tier."""

    rows: dict[Key, list[Row]]
    in_time: set[Key]  # reported while the held sockets were still held
    lives: dict[Key, list[Life]]
    errors: list[str]
    statuses: list[int]
    missed: int  # changes that the kernel ran no program for


class Traced(NamedTuple):
    sessions: list[tuple[str, End]]  # with their scenarios
    ends: list[tuple[str, End]]  # of these and more
    failures: list[str]
    told: dict[int, Told]


@pytest.fixture(scope="module")
def traced(network: Network) -> Iterator[Traced]:
    hosts = [host for pair in test_states.network_hosts(network) for host in pair]
    with ExitStack() as stack:
        tools = {
            tier: [
                stack.enter_context(ours("--json", "--tier", str(tier))),
                stack.enter_context(ours("--json", "--tier", str(tier), tool=STATES)),
            ]
            for tier in TIERS
        }
        # Until Linux 6.17 or so a child has its listener's address at first.
        feeds = {tier: Feed(tools[tier][1], [*hosts, "::"]) for tier in TIERS}
        with play_all(network) as plays, ThreadPoolExecutor(2) as pool:
            more = {
                (scenario.__name__, family): pool.submit(
                    test_states.play_more, scenario, Stage(network, family)
                )
                for scenario in test_states.MORE
                for family in FAMILIES
            }
            sessions, others = ends_of(plays), ends_of(more)
            keys = {end.key for _, end in sessions + others}
            in_time = {}
            for tier, (tcplife, _) in tools.items():
                tcplife.wait_for_ends(end for _, end in sessions)
                in_time[tier] = set(tcplife.rows())
                feeds[tier].wait_for_closed(keys)
        missed = {
            tier: sum(kernel_missed(tool.process.pid) for tool in pair)
            for tier, pair in tools.items()
        }
        statuses = {
            tier: [tool.stop() for tool in pair] for tier, pair in tools.items()
        }
        yield Traced(
            sessions,
            sessions + others,
            [
                f"{case}: {play.exception()!r}"
                for case, play in (plays | more).items()
                if play.exception()
            ],
            {
                tier: Told(
                    pair[0].rows(),
                    in_time[tier],
                    by_key(lives(feeds[tier].changes())),
                    [line for tool in pair for line in tool.errors],
                    statuses[tier],
                    missed[tier],
                )
                for tier, pair in tools.items()
            },
        )


def kernel_missed(pid: int) -> int:
    """How often a program was to run while it was running on that processor.

    The kernel leaves it out then (kernel/trace/bpf_trace.c: __bpf_trace_run()).
    """
    counts = []
    for each in Path(f"/proc/{pid}/fdinfo").iterdir():
        counts += re.findall(r"^recursion_misses:\t(\d+)$", each.read_text(), re.M)
    return sum(map(int, counts))


def ends_of(plays: Plays) -> list[tuple[str, End]]:
    """The ends in those that could be played."""
    return [
        (name, end)
        for (name, _), play in plays.items()
        if not play.exception()
        for end in play.result()
    ]


def test_all_was_played(traced: Traced) -> None:
    assert not traced.failures


@pytest.mark.parametrize("tier", TIERS)
def test_nothing_was_lost(traced: Traced, tier: int) -> None:
    told = traced.told[tier]
    assert told.statuses == [0, 0]
    assert not [line for line in told.errors if "lost" in line or "drop" in line]


@pytest.mark.parametrize("tier", TIERS)
def test_sessions(traced: Traced, tier: int, record_property: Record) -> None:
    told = traced.told[tier]
    wrong = []
    for scenario, end in traced.sessions:
        rows = [end_of(row) for row in told.rows.get(end.key, [])]
        if rows != [end]:
            wrong.append(f"{scenario}: {end}: {rows}")
        elif end.key not in told.in_time:
            wrong.append(f"{scenario}: {end}: late")
    expected = len(traced.sessions)
    print(f"missed by the kernel: {told.missed}")
    record_property("sessions", (tier, expected - len(wrong), expected))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("tier", TIERS)
def test_changes(traced: Traced, tier: int, record_property: Record) -> None:
    told = traced.told[tier]
    wrong = []
    for scenario, end in traced.ends:
        want = test_states.expected(scenario, end).path
        if tier == 4:
            # It sees an accepted session from its second change on.
            want = want.removeprefix("LISTEN ")
        paths = [path(life) for life in told.lives.get(end.key, [])]
        if len(paths) != 1 or not re.fullmatch(want, paths[0]):
            wrong.append(f"{scenario}: {end}: {paths}, not {want}")
    expected = len(traced.ends)
    record_property("changes", (tier, expected - len(wrong), expected))
    assert not wrong, "\n".join(wrong)
