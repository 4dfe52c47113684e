"""What the network does to a session: over a wire that is as bad as it is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from .netns import Host, run_in
from .remote import Remote
from .scenarios import (
    FAMILIES,
    Link,
    Stage,
    cut,
    establish,
    exchanged,
    part,
    transfer,
)
from .test_stories import Story, told_of, us
from .tracer import Tracer, ours, wait_until
from .wire import Wire, wired

CLOSED_TWICE = ("closed", "both", None)


@pytest.fixture(scope="module")
def wire(root: None) -> Iterator[Wire]:
    with wired() as made:
        yield made


@contextmanager
def stages(wire: Wire, copies: int = 1) -> Iterator[list[Stage]]:
    """As many in each family."""
    made = [Stage(wire.network, family) for family in FAMILIES for _ in range(copies)]
    try:
        yield made
    finally:
        for stage in made:
            stage.close()


def at_once(do: Callable[[Any], Any], to: list[Any]) -> list[Any]:
    with ThreadPoolExecutor(len(to)) as pool:
        return list(pool.map(do, to))


def all_told(tracer: Tracer, links: list[Link], size: int) -> list[Story]:
    return told_of(tracer, *(end for link in links for end in link.ends(size, size)))


def sides(links: list[Link]) -> list[Remote]:
    return [side for link in links for side in (link.client, link.server)]


# ---- round trips ----------------------------------------------------------------


def test_round_trips(wire: Wire) -> None:
    """10 ms each way; 25 later, which the least round trip of a session hides."""

    def begin(stage: Stage) -> tuple[Link, float]:
        began = time.monotonic()
        link = establish(stage)
        connected_ms = (time.monotonic() - began) * 1000
        go_round(link, 20)
        return link, connected_ms

    def end(link: Link) -> None:
        part(link.client, link.server)

    with ours("--json") as tracer, stages(wire, 2) as made:
        wire.call("delay", 10)
        try:
            begun = at_once(begin, made)
            links = [link for link, _ in begun]
            even, slower = links[::2], links[1::2]
            at_once(end, even)
            wire.call("delay", 25)
            at_once(lambda link: go_round(link, 25), slower)
            at_once(end, slower)
        finally:
            wire.call("delay", 0)
        of_even = all_told(tracer, even, 2000)
        of_slower = all_told(tracer, slower, 4500)
    # The wire knows how much longer a packet has been underway at the worst.
    late = 2 * wire.call("lateness")
    for story in of_even:
        assert 20 <= story["rtt_ms"] <= 20 * 1.1 + late
    for story in of_slower:
        assert 50 * 0.9 <= story["rtt_ms"] <= 50 * 1.1 + late
    for story in of_even + of_slower:
        assert 20 <= story["min_rtt_ms"] <= 20 * 1.1 + late
        assert (story["connect_ms"] is None) == (story["dir"] == "in")
    connects = [s["connect_ms"] for s in of_even + of_slower if s["dir"] == "out"]
    for connect_ms, (_, at_most) in zip(
        connects, begun[::2] + begun[1::2], strict=True
    ):
        assert 20 <= connect_ms <= at_most


def go_round(link: Link, times: int) -> None:
    for _ in range(times):
        for side in (link.client, link.server):
            side.call("send", "s", 100)
        for side in (link.client, link.server):
            side.call("recv", "s", 100)
        link.settle()


# ---- what is lost on the way ------------------------------------------------------

LARGE = 600_000


def retransmitted_by(host: Host) -> int:
    """Segments, of all sessions in a namespace so far."""
    shown = run_in(host, "nstat", "-asz", "TcpRetransSegs")
    return int(shown.split()[2])


@contextmanager
def retransmissions(wire: Wire) -> Iterator[list[int]]:
    """Those of the client's and the server's namespace, once that is over."""
    found: list[int] = []
    hosts = (wire.network.client, wire.network.server)
    before = [retransmitted_by(host) for host in hosts]
    yield found
    after = [retransmitted_by(host) for host in hosts]
    found += [after[n] - before[n] for n in (0, 1)]


def test_retransmissions(wire: Wire) -> None:
    """As the socket has counted them just before, and as its host has in all."""

    def play(link: Link) -> None:
        transfer(link.client, link.server, LARGE)
        transfer(link.server, link.client, LARGE)
        link.settle()

    with ours("--json") as tracer, stages(wire, 2) as made, retransmissions(wire) as by:
        links = at_once(establish, made)
        wire.call("lose", 0.05)
        try:
            at_once(play, links)
        finally:
            wire.call("lose", 0)
        # All is acknowledged, and a reset is never sent again.
        infos = [side.call("info", "s") for side in sides(links)]
        for link in links:
            cut("reset", link.client, link.server)
        stories = all_told(tracer, links, LARGE)
    for story, info in zip(stories, infos, strict=True):
        assert story["retrans"] == info["total_retrans"] > 0
        assert story["retrans_bytes"] == info["bytes_retrans"] > 0
    assert summed(stories) == by


def summed(stories: list[Story]) -> list[int]:
    """Segments sent again, by clients and by servers."""
    return [
        sum(story["retrans"] for story in stories if story["dir"] == direction)
        for direction in ("out", "in")
    ]


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("lost", ["syn", "syn_ack", "data", "fin"])
def test_lost_segment(wire: Wire, lost: str, family: str) -> None:
    """Each kind is counted where it is sent; of bytes, only data has any."""
    stage = Stage(wire.network, family)
    try:
        with ours("--json") as tracer, retransmissions(wire) as by:
            # The first packet of a handshake, or the second.
            wire.call("lose_next", *{"syn": [0], "syn_ack": [1]}.get(lost, []))
            link = exchanged(stage)
            if lost == "data":
                wire.call("lose_next", 0)
                transfer(link.client, link.server, 700)
                link.settle()
            infos = [side.call("info", "s") for side in sides([link])]
            if lost == "fin":
                wire.call("lose_next", 0)
            part(link.client, link.server)
            ends = link.ends(100 + 700 * (lost == "data"))
            client, server = told_of(tracer, *ends)
    finally:
        stage.close()
    assert [client["retrans"], server["retrans"]] == by
    assert (server if lost == "syn_ack" else client)["retrans"] > 0
    for story, info in zip((client, server), infos, strict=True):
        assert story["retrans_bytes"] == info["bytes_retrans"]
    assert (client["retrans_bytes"] >= 700) == (lost == "data")
    if lost in ("syn", "syn_ack"):
        assert client["connect_ms"] > 900


# ---- closed at once ---------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_both_close_first(wire: Wire, family: str) -> None:
    """Their FINs cross on the wire, so that each finds itself in CLOSING."""
    stage = Stage(wire.network, family)
    try:
        with ours("--json") as tracer:
            link = exchanged(stage)
            wire.call("hold")
            try:
                for side in (link.client, link.server):
                    side.call("shutdown", "s")
                wait_until(lambda: wire.call("held_back") >= 2, "no FINs")
            finally:
                wire.call("release")
            for side in (link.client, link.server):
                side.call("recv_eof", "s")
                side.call("close", "s")
            stories = told_of(tracer, *link.ends())
    finally:
        stage.close()
    for story in stories:
        assert (story["end"], story["first"], story["errno"]) == CLOSED_TWICE
        assert us(story["close_ms"]) > 0
