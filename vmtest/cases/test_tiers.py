"""Owner and bytes of each session, and the order of its states, on each tier.

All sessions are played once, under both tools in each tier. A session that came out
wrong in tier 4 is played again: see Tools.may_play_again(). How many were is told.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import NamedTuple

import pytest
from kernel import test_states
from kernel.changes import Feed, by_key, lives, path
from kernel.netns import Network
from kernel.scenarios import FAMILIES, SCENARIOS, End, Key, Scenario, Stage, play_all
from kernel.test_sessions import end_of
from kernel.tracer import PATIENCE, STATES, ours

from vmtest import steps

TIERS = [int(tier) for tier in os.environ[steps.TIERS].split(",")]
ROUNDS = 4
MORE = {scenario.__name__: scenario for scenario in test_states.MORE}

Case = tuple[str, str]  # scenario, family
Wrong = dict[Case, list[str]]
Record = Callable[[str, object], None]


class Tools:
    """tcplife and tcpstates of one tier."""

    def __init__(self, tier: int, stack: ExitStack, hosts: Iterable[str]) -> None:
        self.tier = tier
        forced = ("--json", "--tier", str(tier))
        self.tcplife = stack.enter_context(ours(*forced))
        self.tcpstates = stack.enter_context(ours(*forced, tool=STATES))
        # On Linux 6.12 (not on 6.18) a child has its listener's address at first.
        self._feed = Feed(self.tcpstates, [*hosts, "::"])
        self.late: set[Key] = set()
        self.statuses: list[int] = []

    def wait_for(self, ends: list[End], deadline: float) -> None:
        """Until all of these ends are told of, while those that are held still are."""
        if not self.tcplife.wait_for_ends(ends, deadline - time.monotonic()):
            self.late |= {end.key for end in ends} - self.tcplife.rows().keys()
        keys = (end.key for end in ends)
        self._feed.wait_for_closed(keys, deadline - time.monotonic())

    def wrong_sessions(self, played: dict[Case, list[End]]) -> Wrong:
        wrong: Wrong = {}
        rows = self.tcplife.rows()
        for case, ends in played.items():
            for end in ends if case[0] in SCENARIOS else ():
                found = [end_of(row) for row in rows.get(end.key, [])]
                if found != [end] or end.key in self.late:
                    late = " late" if end.key in self.late else ""
                    wrong.setdefault(case, []).append(f"{end}: {found}{late}")
        return wrong

    def wrong_changes(self, played: dict[Case, list[End]]) -> Wrong:
        wrong: Wrong = {}
        found = by_key(lives(self._feed.changes()))
        for case, ends in played.items():
            for end in ends:
                want = test_states.expected(case[0], end).path
                if self.tier == 4:
                    # It sees an accepted session from its second change on.
                    want = want.removeprefix("LISTEN ")
                paths = [path(life) for life in found.get(end.key, [])]
                if len(paths) != 1 or not re.fullmatch(want, paths[0]):
                    wrong.setdefault(case, []).append(f"{end}: {paths}, not {want}")
        return wrong

    def may_play_again(self) -> bool:
        """Whether it may be wrong, now and then, for a reason that is not its own.

        The kernel runs no program for a kprobe while it runs one for any on the same
        processor (kernel/trace/bpf_trace.c, trace_call_bpf()). A program takes a
        hundred times as long here as on a real processor.
        """
        return self.tier == 4

    def stop(self) -> None:
        self.statuses = [tool.stop() for tool in (self.tcplife, self.tcpstates)]

    @property
    def errors(self) -> list[str]:
        return self.tcplife.errors + self.tcpstates.errors


class Traced(NamedTuple):
    played: dict[Case, list[End]]
    failures: list[str]
    again: int
    tools: dict[int, Tools]


@pytest.fixture(scope="module")
def traced(network: Network) -> Iterator[Traced]:
    hosts = [host for pair in test_states.network_hosts(network) for host in pair]
    with ExitStack() as stack:
        tools = {tier: Tools(tier, stack, hosts) for tier in TIERS}
        played, failures = play_once(network, tools.values())
        again = 0
        for _ in range(ROUNDS):
            wrong = wrong_by_chance(tools.values(), played)
            again += len(wrong)
            for case in wrong:
                with closing(Stage(network, case[1])) as stage:
                    played[case] = scenario(case[0])(stage)
                    wait_for(tools.values(), played[case])
        for pair in tools.values():
            pair.stop()
        yield Traced(played, failures, again, tools)


def wait_for(tools: Iterable[Tools], ends: list[End]) -> None:
    """All tools together have this time: several rows may never come."""
    deadline = time.monotonic() + PATIENCE
    for pair in tools:
        pair.wait_for(ends, deadline)


def scenario(name: str) -> Scenario:
    return SCENARIOS.get(name) or MORE[name]


def play_once(
    network: Network, tools: Iterable[Tools]
) -> tuple[dict[Case, list[End]], list[str]]:
    """The ends of all sessions, and what could not be played."""
    played: dict[Case, list[End]] = {}
    failures = []
    with play_all(network) as plays, ThreadPoolExecutor(2) as pool:
        more = {
            (name, family): pool.submit(
                test_states.play_more, each, Stage(network, family)
            )
            for name, each in MORE.items()
            for family in FAMILIES
        }
        for case, play in (plays | more).items():
            if error := play.exception():
                failures.append(f"{case}: {error!r}")
            else:
                played[case] = play.result()
        wait_for(tools, [end for each in played.values() for end in each])
    return played, failures


def wrong_by_chance(tools: Iterable[Tools], played: dict[Case, list[End]]) -> set[Case]:
    found: set[Case] = set()
    for pair in tools:
        if pair.may_play_again():
            found |= {*pair.wrong_sessions(played), *pair.wrong_changes(played)}
    return found


def test_all_was_played(traced: Traced) -> None:
    assert not traced.failures, traced.failures


@pytest.mark.parametrize("tier", TIERS)
def test_nothing_was_lost(traced: Traced, tier: int) -> None:
    tools = traced.tools[tier]
    assert tools.statuses == [0, 0], tools.errors
    told = [line for line in tools.errors if "lost" in line or "drop" in line]
    assert not told, told


def check(
    what: str, traced: Traced, tier: int, ends: int, wrong: Wrong, record: Record
) -> None:
    bad = sum(map(len, wrong.values()))
    again = traced.again if traced.tools[tier].may_play_again() else 0
    record(what, (tier, ends - bad, ends, again))
    lines = [f"{case}: {each}" for case, several in wrong.items() for each in several]
    assert not wrong, "\n".join(lines)


@pytest.mark.parametrize("tier", TIERS)
def test_sessions(traced: Traced, tier: int, record_property: Record) -> None:
    wrong = traced.tools[tier].wrong_sessions(traced.played)
    ends = sum(
        len(ends) for (name, _), ends in traced.played.items() if name in SCENARIOS
    )
    check("sessions", traced, tier, ends, wrong, record_property)


@pytest.mark.parametrize("tier", TIERS)
def test_changes(traced: Traced, tier: int, record_property: Record) -> None:
    wrong = traced.tools[tier].wrong_changes(traced.played)
    ends = sum(map(len, traced.played.values()))
    check("changes", traced, tier, ends, wrong, record_property)
