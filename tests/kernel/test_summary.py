"""Summaries, kept by the kernel side or made of records, against each session."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from .netns import Network
from .scenarios import Stage, transfer
from .tracer import STATES, Tracer, ours

PORTS = (8000, 8001)
REFUSED = 8002
SESSIONS = 150
# A session's two ends; the refused have one.
ENDS = 2 * SESSIONS + SESSIONS // 5
QUANTITIES = ("ms", "connect_ms", "tx_bytes", "rx_bytes", "rtt_ms")


class Traffic:
    """Two clients, a server with two ports and one that refuses."""

    def __init__(self, network: Network, stack: ExitStack) -> None:
        stage = Stage(network, "ipv4")
        stack.callback(stage.close)
        self.host = stage.connect_host
        self.clients = [stage.client(), stage.client()]
        self.server = stage.server()
        for port in PORTS:
            self.server.call("listen", f"l{port}", self.host, port)
        remotes = [*self.clients, self.server]
        self.pids = ",".join(str(remote.pid) for remote in remotes)
        self._chance = random.Random(1)

    def play(self, count: int = SESSIONS) -> None:
        """Of all sizes; who closes first changes; every fifth is refused besides."""
        for number in range(count):
            client = self.clients[number % 2]
            port = PORTS[number // 2 % 2]
            client.call("connect", "s", self.host, port)
            self.server.call("accept", f"l{port}", "s")
            transfer(client, self.server, self._chance.randrange(1, 3000))
            transfer(self.server, client, 2 ** self._chance.randrange(16))
            first, then = (client, self.server) if number % 3 else (self.server, client)
            first.call("close", "s")
            then.call("recv_eof", "s")
            then.call("close", "s")
            if not number % 5:
                with pytest.raises(ConnectionRefusedError):
                    client.call("connect", "r", self.host, REFUSED)


@contextmanager
def traffic(network: Network) -> Iterator[Traffic]:
    with ExitStack() as stack:
        yield Traffic(network, stack)


def objects(tracer: Tracer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in tracer.lines]


def nearest_rank(values: list[float], share: float) -> float:
    return sorted(values)[max(math.ceil(share * len(values)), 1) - 1]


BY: dict[str, Callable[[dict[str, Any]], tuple[Any, ...]]] = {
    "comm,dir,port": lambda row: (
        row["comm"],
        row["dir"],
        row["rport"] if row["dir"] == "out" else row["lport"],
    ),
    "raddr": lambda row: (row["raddr"],),
    "pid,end": lambda row: (row["pid"], row["end"]),
    "user,netns,lport": lambda row: (row["user"], row["netns"], row["lport"]),
    "subnet/8": lambda row: (row["raddr"].split(".")[0] + ".0.0.0/8",),
}


@pytest.mark.parametrize("by", BY)
def test_kernel_and_records_agree_with_each_session(network: Network, by: str) -> None:
    with traffic(network) as played, ExitStack() as stack:
        only = ("--json", "-p", played.pids)
        rows = stack.enter_context(ours(*only))
        kept, made = (
            stack.enter_context(ours(*only, "--summary", "--by", by, "--tier", tier))
            for tier in ("1", "2")
        )
        assert any("summed up in the kernel" in line for line in kept.errors)
        assert not any("summed up in the kernel" in line for line in made.errors)
        played.play()
        rows.wait_for(lambda: len(rows.lines) >= ENDS)
        for tracer in (rows, kept, made):
            assert tracer.stop() == 0
    sessions = objects(rows)
    assert len(sessions) == ENDS
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for session in sessions:
        groups.setdefault(BY[by](session), []).append(session)
    for tracer in (kept, made):
        found = {
            tuple(told[name] for name in by.split(",")): told
            for told in objects(tracer)
        }
        assert found.keys() == groups.keys()
        for key, told in found.items():
            check(told, groups[key])


def check(told: dict[str, Any], sessions: list[dict[str, Any]]) -> None:
    """A group's figures against its sessions."""
    assert told["count"] == len(sessions)
    assert told["ends"] == Counter(session["end"] for session in sessions)
    assert told["failed"] == sum(session["end"] != "closed" for session in sessions)
    for name in ("retrans", "segs_out"):
        assert told[name] == sum(session[name] for session in sessions)
    for name in QUANTITIES:
        values = [s[name] for s in sessions if s[name] is not None]
        figures = told[name]
        assert figures["count"] == len(values)
        if not values:
            assert figures["p50"] is None
            continue
        # Each tracer has its own clock readings, one behind the other.
        slack = 0.0 if name.endswith("bytes") or name == "rtt_ms" else 0.3
        if not slack:
            assert round(figures["total"], 3) == round(sum(values), 3)
            assert figures["max"] == max(values)
        for percentile in (50, 90, 99):
            exact = nearest_rank(values, percentile / 100)
            assert abs(figures[f"p{percentile}"] - exact) <= 0.01 * exact + slack
        assert sum(row[2] for row in figures["histogram"]) == len(values)


def await_another(tracer: Tracer) -> None:
    """Wait for an interval's lines."""
    shown = len(tracer.lines)
    assert tracer.wait_for(lambda: len(tracer.lines) > shown)


@pytest.mark.parametrize("tier", ["1", "2"])
def test_intervals_add_up_to_the_whole(network: Network, tier: str) -> None:
    with traffic(network) as played, ExitStack() as stack:
        options = ("--summary", "--json", "-p", played.pids, "--tier", tier)
        whole = stack.enter_context(ours(*options))
        parts = stack.enter_context(ours(*options, "-i", "0.2"))
        for third in range(3):
            played.play(SESSIONS // 3)
            if third < 2:
                await_another(parts)
        for tracer in (whole, parts):
            assert tracer.stop() == 0
    counts: Counter[tuple[Any, ...]] = Counter()
    sums: Counter[tuple[Any, ...]] = Counter()
    times = set()
    for told in objects(parts):
        key = (told["comm"], told["dir"], told["port"])
        counts[key] += told["count"]
        sums[key] += told["tx_bytes"]["total"]
        times.add(told["time"])
    assert len(times) >= 2
    wanted = {(o["comm"], o["dir"], o["port"]): o for o in objects(whole)}
    assert counts == {key: told["count"] for key, told in wanted.items()}
    assert sums == {key: told["tx_bytes"]["total"] for key, told in wanted.items()}
    assert counts.total() == ENDS


# Of this process, which nothing keeps from going on.
QUICK = 3000


def test_no_value_is_lost_where_intervals_meet() -> None:
    """A session is counted in one of them, and so are all of its figures."""
    only = ("-p", str(os.getpid()), "--by", "pid")
    with ours("--summary", "--json", *only, "-i", "0.1") as tracer:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            for _ in range(QUICK):
                client = socket.create_connection(listener.getsockname())
                server = listener.accept()[0]
                client.close()
                assert server.recv(1) == b""
                server.close()
        assert tracer.stop() == 0
    pieces = objects(tracer)
    assert len(pieces) >= 2
    assert sum(told["count"] for told in pieces) == 2 * QUICK
    for told in pieces:
        for name in QUANTITIES:
            figures = told[name]
            assert sum(row[2] for row in figures["histogram"]) == figures["count"]


@pytest.mark.parametrize("tier", [1, 2])
def test_groups_without_room_become_one(network: Network, tier: int) -> None:
    """Nothing is lost, and it is said how much was folded: by the kernel side, and by
    user space."""
    with traffic(network) as played:
        options = ("--summary", "--json", "-p", played.pids, "--tier", str(tier))
        with ours(*options, "--by", "lport,rport", "--max-groups", "10") as tracer:
            played.play()
            assert tracer.stop() == 0
    told = objects(tracer)
    assert len(told) == 11
    other = told[-1]
    assert other["other"]
    assert sum(group["count"] for group in told) == ENDS
    folded = [line for line in tracer.errors if "(other)" in line]
    assert folded[0].startswith(f"tcplife: {other['count']} are in (other), as ")


def test_a_session_whose_owner_is_searched_for_is_counted(network: Network) -> None:
    """It comes as a record even where the kernel side counts."""
    with traffic(network) as played:
        options = ("--summary", "--json", "--by", "pid,end", "-p", played.pids)
        with ours(*options) as tracer:
            client = played.clients[0]
            client.call("connect", "s", played.host, PORTS[0])
            played.server.call("accept", f"l{PORTS[0]}", "s")
            client.call("reset", "s")
            played.server.call("await_end", "s")
            assert tracer.stop() == 0  # while the server holds its socket
    found = {(o["pid"], o["end"]): o["count"] for o in objects(tracer)}
    assert found == {
        (client.pid, "reset-by-us"): 1,
        (played.server.pid, "reset-by-peer"): 1,
    }


@pytest.mark.parametrize("tier", ["1", "2"])
def test_states(network: Network, tier: str) -> None:
    ports = f"{PORTS[0]}-{PORTS[1]}"
    with traffic(network) as played, ExitStack() as stack:
        only = ("--json", "-L", ports)
        changes = stack.enter_context(ours(*only, tool=STATES))
        summary = stack.enter_context(
            ours(*only, "--summary", "--tier", tier, tool=STATES)
        )
        played.play()
        for tracer in (changes, summary):
            assert tracer.stop() == 0
    times: dict[tuple[str, ...], list[float | None]] = {}
    for change in objects(changes):
        old, new = change["oldstate"], change["newstate"]
        times.setdefault((old, new), []).append(change["ms"])
        times.setdefault((old,), []).append(change["ms"])
    assert len(times["SYN_RECV", "ESTABLISHED"]) == SESSIONS
    told = objects(summary)
    names = ("oldstate", "newstate")
    found = {tuple(o[name] for name in names if name in o): o for o in told}
    assert found.keys() == times.keys()
    for key, group in found.items():
        known = [ms for ms in times[key] if ms is not None]
        assert (group["count"], group["ms"]["count"]) == (len(times[key]), len(known))
        if known:
            exact = nearest_rank(known, 0.5)
            assert abs(group["ms"]["p50"] - exact) <= 0.01 * exact + 0.3


def test_it_is_shown_at_each_signal_that_ends_it(network: Network) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with ours("--summary") as tracer:
            assert tracer.stop(number) == 0
        assert tracer.lines[0].split()[:4] == ["COMM", "DIR", "PORT", "COUNT"]
