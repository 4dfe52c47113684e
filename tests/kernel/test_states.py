"""tcpstates: each change once and in order, with durations that add up."""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from . import test_filters
from .blind import again_if_blind
from .changes import Change, Feed, Life, by_key, lives, parse_csv, path
from .netns import Host, Network, run_in
from .scenarios import (
    ENDINGS,
    FAMILIES,
    HANDINGS,
    SCENARIOS,
    End,
    Key,
    Link,
    Scenario,
    Stage,
    exchanged,
    play_all,
)
from .tracer import STATES, Tracer, ours

# How much longer things may take than on a real processor.
SLOWNESS = float(os.environ.get("TCPLIFE_SLOWNESS", "1"))

# ---- more sessions: a reset in each state that can be had -------------------

# For the firewall to drop; scenarios.py has those from 2000 on.
_private_ports = itertools.count(4000)


def reset_in_close_wait(stage: Stage) -> list[End]:
    link = exchanged(stage)
    link.client.call("shutdown", "s")
    link.server.call("recv_eof", "s")
    link.client.call("await_acks", "s")
    link.server.call("reset", "s")
    link.client.call("await_end", "s")
    link.client.call("close", "s")
    return link.ends()


def reset_in_fin_wait2(stage: Stage) -> list[End]:
    link = exchanged(stage)
    link.client.call("shutdown", "s")
    link.server.call("recv_eof", "s")
    link.client.call("await_acks", "s")
    link.client.call("reset", "s")
    link.server.call("await_end", "s")
    link.server.call("close", "s")
    return link.ends()


def reset_in_fin_wait1(stage: Stage) -> list[End]:
    link = exchanged(stage, next(_private_ports))
    stage.network.drop(link.server_port)
    link.client.call("shutdown", "s")
    link.client.call("reset", "s")
    link.server.call("reset", "s")
    stage.network.undrop(link.server_port)
    return link.ends()


def reset_by_peer_in_fin_wait1(stage: Stage) -> list[End]:
    """The FIN comes, the second time, to a host that knows nothing any more."""
    link = exchanged(stage, next(_private_ports))
    stage.network.drop(link.server_port)
    link.client.call("shutdown", "s")
    link.server.call("reset", "s")
    stage.network.undrop(link.server_port)
    link.client.call("await_end", "s")
    link.client.call("close", "s")
    return link.ends()


def reset_by_peer_in_last_ack(stage: Stage) -> list[End]:
    link = exchanged(stage, next(_private_ports))
    link.client.call("shutdown", "s")
    link.server.call("recv_eof", "s")
    link.client.call("await_acks", "s")
    stage.network.drop(link.server_port)
    link.server.call("close", "s")
    link.client.call("reset", "s")
    stage.network.undrop(link.server_port)
    return link.ends()


def reset_in_closing(stage: Stage) -> list[End]:
    """Both have sent their FINs; only the client's arrives."""
    link = exchanged(stage, next(_private_ports))
    stage.network.drop(link.server_port)
    link.client.call("shutdown", "s")
    link.server.call("shutdown", "s")
    undrop = ("nft", f"delete element inet test dropped {{ {link.server_port} }}")
    run_in(stage.network.server, *undrop)
    link.server.call("recv_eof", "s")
    link.server.call("reset", "s")
    run_in(stage.network.client, *undrop)
    link.client.call("await_end", "s")
    link.client.call("close", "s")
    return link.ends()


def killed_while_connecting(stage: Stage) -> list[End]:
    port = next(_private_ports)
    stage.network.drop(port)
    client = stage.client()
    client.order("connect", "s", stage.connect_host, port)
    client_port = connecting_port(stage.network.client, port)
    client.kill()
    return [Link(stage, client, client, client_port, port).client_end(0, 0)]


def connecting_port(host: Host, port: int) -> int:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        shown = run_in(host, "ss", "-Htn", "state", "syn-sent", "dport", f"= :{port}")
        if shown:
            return int(shown.split()[2].rpartition(":")[2])
    raise TimeoutError("no socket in SYN_SENT")


# ---- what is to be seen of them ----------------------------------------------


class Closing(NamedTuple):
    """How each side gets from ESTABLISHED to CLOSE, as a regular expression.

    acts: whether its last holder brings about a change of it on the way.
    """

    client: str
    server: str
    client_acts: bool
    server_acts: bool


FIRST = "FIN_WAIT1 FIN_WAIT2 CLOSE"
SECOND = "CLOSE_WAIT LAST_ACK CLOSE"
CUT = "CLOSE"
CROSSING = "FIN_WAIT1 (CLOSING|FIN_WAIT2) CLOSE"

CLIENT_FIRST = Closing(FIRST, SECOND, True, True)
SERVER_FIRST = Closing(SECOND, FIRST, True, True)
CLIENT_RESETS = Closing(CUT, CUT, True, False)
SERVER_RESETS = Closing(CUT, CUT, False, True)
NOBODY_ACTS = Closing(CUT, CUT, False, False)

BY_ENDING = {
    "holder_closes": (CLIENT_FIRST, SERVER_FIRST),
    "peer_closes": (SERVER_FIRST, CLIENT_FIRST),
    "holder_resets": (CLIENT_RESETS, SERVER_RESETS),
    "peer_resets": (SERVER_RESETS, CLIENT_RESETS),
    "peer_resets_held": (SERVER_RESETS, CLIENT_RESETS),
    "destroyed": (NOBODY_ACTS, NOBODY_ACTS),
}
CLOSINGS = {
    f"{side}-{handing.__name__}-{ending.__name__}": BY_ENDING[ending.__name__][number]
    for number, side in enumerate(("client_holds", "server_holds"))
    for handing in HANDINGS
    for ending in ENDINGS
} | {
    "no_bytes": CLIENT_FIRST,
    "client_half_closes": CLIENT_FIRST,
    "server_half_closes": SERVER_FIRST,
    "client_leaves_unread": CLIENT_RESETS,
    "server_leaves_unread": SERVER_RESETS,
    "client_killed": CLIENT_FIRST,
    "server_killed": SERVER_FIRST,
    "late_data_refused": Closing(FIRST, "CLOSE_WAIT CLOSE", True, False),
    "closed_together": Closing(CROSSING, CROSSING, True, True),
    "retransmitted": CLIENT_FIRST,
    "user_timeout": SERVER_RESETS,
    "refused": NOBODY_ACTS,
    "timed_out": NOBODY_ACTS,
    "forked_before_accept": CLIENT_RESETS,
    "thread_serves": SERVER_FIRST,
    "thread_connects": CLIENT_FIRST,
    "listener_closes": SERVER_RESETS,
    "listener_killed": SERVER_RESETS,
    "large": CLIENT_FIRST,
    "many_small": SERVER_FIRST,
}
MORE: dict[Scenario, Closing] = {
    reset_in_close_wait: Closing(FIRST, "CLOSE_WAIT CLOSE", True, True),
    reset_in_fin_wait2: Closing(FIRST, "CLOSE_WAIT CLOSE", True, False),
    reset_in_fin_wait1: Closing("FIN_WAIT1 CLOSE", CUT, True, True),
    reset_by_peer_in_fin_wait1: Closing("FIN_WAIT1 CLOSE", CUT, True, True),
    reset_by_peer_in_last_ack: CLIENT_FIRST,
    reset_in_closing: Closing("FIN_WAIT1 CLOSE", "FIN_WAIT1 CLOSING CLOSE", True, True),
    killed_while_connecting: NOBODY_ACTS._replace(client_acts=True),
}
CLOSINGS |= {scenario.__name__: closing for scenario, closing in MORE.items()}
NEVER_ESTABLISHED = ("refused", "timed_out", "killed_while_connecting")


class Expected(NamedTuple):
    end: End
    client: bool
    path: str
    acts: bool


def expected(scenario: str, end: End) -> Expected:
    closing = CLOSINGS[scenario]
    # A listener's port was chosen by its host, too: the address tells who is who.
    if end.laddr.endswith((".1", ":1")):
        before = "CLOSE SYN_SENT"
        if scenario not in NEVER_ESTABLISHED:
            before += " ESTABLISHED"
        return Expected(end, True, f"{before} {closing.client}", closing.client_acts)
    before = "LISTEN SYN_RECV ESTABLISHED"
    return Expected(end, False, f"{before} {closing.server}", closing.server_acts)


# ---- played once, under three tracers ----------------------------------------


class Traced(NamedTuple):
    ends: dict[str, list[End]]
    failures: list[str]
    unclosed: set[Key]
    lives: dict[Key, list[Life]]
    exact: dict[Key, list[Life]]  # by -s -t, in which times are exact
    sessions: dict[Key, float]  # by tcplife: ms
    errors: list[str]
    statuses: list[int]


@pytest.fixture(scope="module")
def traced(network: Network) -> Iterator[Traced]:
    hosts = [address for host in network_hosts(network) for address in host]
    with ExitStack() as stack:
        tracers = [
            stack.enter_context(ours("--json", tool=STATES)),
            stack.enter_context(ours("-s", "-t", tool=STATES)),
            stack.enter_context(ours("--json")),
        ]
        states, exact, sessions = tracers
        # On Linux 6.12 (not on 6.18) a child has its listener's address at first.
        feed = Feed(states, [*hosts, "::"])
        ends: dict[str, list[End]] = {}
        failures = []
        with play_all(network) as plays, ThreadPoolExecutor(4) as pool:
            more = {
                (scenario.__name__, family): pool.submit(
                    play_more, scenario, Stage(network, family)
                )
                for scenario in MORE
                for family in FAMILIES
            }
            for case, play in (plays | more).items():
                if error := play.exception():
                    failures.append(f"{case}: {error!r}")
                else:
                    ends["-".join(case)] = play.result()
            every = [end for each in ends.values() for end in each]
            unclosed = feed.wait_for_closed(end.key for end in every)
            sessions.wait_for_ends(every)
            statuses = [tracer.stop() for tracer in tracers]
        in_csv = tuple(f",{host}," for host in (*hosts, "::"))
        yield Traced(
            ends,
            failures,
            unclosed,
            by_key(lives(feed.changes())),
            by_key(
                lives(
                    parse_csv(line)
                    for line in exact.lines[1:]
                    if any(host in line for host in in_csv)
                )
            ),
            {
                (row["laddr"], row["lport"], row["raddr"], row["rport"]): row["ms"]
                for row in map(json.loads, sessions.lines)
                if row["laddr"] in hosts
            },
            [line for tracer in tracers for line in tracer.errors],
            statuses,
        )


def network_hosts(network: Network) -> list[tuple[str, str]]:
    return [(host.ipv4, host.ipv6) for host in (network.client, network.server)]


def play_more(scenario: Scenario, stage: Stage) -> list[End]:
    try:
        return scenario(stage)
    finally:
        stage.close()


def cases(traced: Traced) -> Iterator[tuple[str, Expected]]:
    for case, ends in traced.ends.items():
        name = case.rpartition("-")[0]
        for end in ends:
            yield case, expected(name, end)


ALL = [*SCENARIOS, *(scenario.__name__ for scenario in MORE)]


def test_all_was_played_and_nothing_lost(traced: Traced) -> None:
    assert not traced.failures
    assert not traced.unclosed
    assert traced.statuses == [0, 0, 0]
    assert not [line for line in traced.errors if "lost" in line or "drop" in line]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scenario", ALL)
def test_each_change_is_seen_once_and_in_order(
    traced: Traced, scenario: str, family: str
) -> None:
    for end in traced.ends[f"{scenario}-{family}"]:
        want = expected(scenario, end)
        for found in (traced.lives, traced.exact):
            paths = [path(life) for life in found.get(end.key, [])]
            assert len(paths) == 1, f"{end}: {paths}"
            assert re.fullmatch(want.path, paths[0]), f"{end}: {paths}"
        (life,) = traced.lives[end.key]
        version = 6 if family == "ipv6" else 4
        # The address of the other end is not there yet when a child is made.
        known = life if want.client else life[1:]
        assert {change.ip for change in known} == {version}
        assert {(change.laddr, change.raddr) for change in known} == {
            (end.laddr, end.raddr)
        }
        assert {change.lport for change in life[1:]} == {end.lport}
        assert {change.rport for change in life[1:]} == {end.rport}


def test_simultaneous_close_has_closing(traced: Traced) -> None:
    for family in FAMILIES:
        ends = traced.ends[f"closed_together-{family}"]
        (one,), (other,) = (traced.lives[end.key] for end in ends)
        assert "CLOSING" in path(one) + path(other)


def check_durations(life: Life) -> None:
    """The sum of the states is the span between the first and the last change."""
    assert all(change.us is None or change.us >= 0 for change in life)
    total = sum(change.us or 0 for change in life)
    assert abs(total - (life[-1].at_us - life[0].at_us)) <= 1, life


def test_durations_add_up(traced: Traced) -> None:
    checked = 0
    for _, want in cases(traced):
        for life in traced.exact[want.end.key]:
            check_durations(life)
            assert life[0].us == 0  # not seen to begin: 0.000 in the table
            assert life[-1].at_us > life[0].at_us
            # Each of them, not only their sum.
            for before, change in itertools.pairwise(life):
                assert change.us == change.at_us - before.at_us
            checked += 1
    assert checked > 300


def test_first_change_alone_has_no_duration_in_json(traced: Traced) -> None:
    for _, want in cases(traced):
        for life in traced.lives[want.end.key]:
            assert [change.us is None for change in life] == [
                True,
                *[False] * (len(life) - 1),
            ]


def test_json_times_differ_by_the_durations(traced: Traced) -> None:
    """To a microsecond in a batch; the wall clock may move between batches."""
    for _, want in cases(traced):
        for life in traced.lives[want.end.key]:
            total = sum(change.us or 0 for change in life)
            off = abs(total - (life[-1].at_us - life[0].at_us))
            assert off <= 20_000 * SLOWNESS


EARLY = ("SYN_SENT", "SYN_RECV", "ESTABLISHED")


def test_tcplife_agrees(traced: Traced) -> None:
    """The same sessions, whose lifespans are the sums of their states."""
    found = {
        key
        for key, several in traced.lives.items()
        if several[-1][-1].new == "CLOSE" and several[-1][-1].old != "LISTEN"
    }
    assert found == set(traced.sessions)
    for _, want in cases(traced):
        (life,) = traced.lives[want.end.key]
        last_early = max(n for n, change in enumerate(life) if change.new in EARLY)
        total_ms = sum(change.us or 0 for change in life[last_early + 1 :]) / 1000
        ms = traced.sessions[want.end.key]
        # Two programs, each with a clock reading of its own.
        assert abs(ms - total_ms) <= 5 * SLOWNESS + 0.1 * ms, life


def test_owner(traced: Traced) -> None:
    """Nobody is named who had nothing to do with the session."""
    unknown: Counter[str] = Counter()
    total = 0
    for case, want in cases(traced):
        (life,) = traced.lives[want.end.key]
        end = want.end
        owners = [(change.pid, change.comm) for change in life]
        holder = (end.pid, end.comm)
        # Who connects owns the session until somebody else acts on it. A
        # server's process does nothing that changes a state until it closes.
        opener = owners[0]
        assert opener[0] if want.client else opener == (None, None), (case, life)
        if want.client:
            assert re.fullmatch(r"cli-\d+", opener[1] or ""), (case, life)
            if "forked" in case:
                assert end.comm in (opener[1], f"{opener[1]}-child")
            elif "passed" not in case:
                assert opener == holder, (case, life)
        assert set(owners) <= {opener, holder}, (case, life)
        # Once known, it is not forgotten; and it doesn't go back.
        assert len(list(itertools.groupby(owners))) <= 2, (case, life)
        total += 1
        if want.acts:
            assert owners[-1] == holder, (case, life)
        elif owners[-1] != holder:
            assert owners[-1] == opener, (case, life)
        if owners[-1][0] is None:
            unknown[case.rpartition("-")[0]] += 1
            assert not want.client, (case, life)
            assert not want.acts, (case, life)
    print(f"owner unknown at CLOSE: {unknown.total()} of {total}: {dict(unknown)}")
    assert unknown["server_holds-kept-peer_resets"]


# ---- in this process ----------------------------------------------------------

HERE = f"127.{1 + (os.getpid() >> 8 & 127)}.{os.getpid() & 255}.200"


def of_here(tracer: Tracer) -> list[Life]:
    """What this process did, once the tool has ended."""
    assert tracer.stop() == 0
    assert not [line for line in tracer.errors if "lost" in line or "drop" in line]
    return lives(Feed(tracer, [HERE]).changes())


def connect_from_here(listener: socket.socket) -> socket.socket:
    return socket.create_connection(listener.getsockname(), source_address=(HERE, 0))


def test_listener_and_its_close(network: Network) -> None:
    with ours("--json", tool=STATES) as tracer, ExitStack() as stack:
        servers = []
        for family, end in itertools.product(FAMILIES, ("close", "kill")):
            stage = Stage(network, family)
            stack.callback(stage.close)
            server = stage.server()
            port = server.call("listen", "l", stage.listen_host)
            if end == "close":
                server.call("close", "l")
            else:
                server.kill()
            servers.append((stage, server, port))
        assert tracer.stop() == 0
    hosts = [address for host in network_hosts(network) for address in host]
    found = lives(Feed(tracer, [*hosts, "::"]).changes())
    for stage, server, port in servers:
        (life,) = (life for life in found if life[0].pid == server.pid)
        assert path(life) == "CLOSE LISTEN CLOSE"
        assert {change.pid for change in life} == {server.pid}
        assert {(change.laddr, change.lport, change.rport) for change in life} == {
            (stage.listen_host, port, 0)
        }
        assert life[0].us is None
        assert (life[1].us or 0) > 0


def test_simultaneous_open() -> None:
    """A socket that connects to itself goes both ways at once."""
    with ours("--json", tool=STATES) as tracer:
        with socket.socket() as sock:
            sock.bind((HERE, 0))
            sock.connect(sock.getsockname())
        (life,) = of_here(tracer)
    assert path(life).startswith("CLOSE SYN_SENT SYN_RECV ESTABLISHED FIN_WAIT1 ")
    assert path(life).endswith(" CLOSE")
    assert "?" not in path(life)
    assert {change.pid for change in life} == {os.getpid()}


def test_second_life_of_a_socket() -> None:
    """Refused, and connected again: nothing of the first is carried over."""
    with (
        ours("--json", tool=STATES) as tracer,
        socket.create_server((HERE, 0)) as listener,
        socket.socket() as sock,
    ):
        with socket.create_server((HERE, 0)) as closed:
            nobody = closed.getsockname()
        sock.bind((HERE, 0))
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                sock.connect(nobody)
        sock.connect(listener.getsockname())
        there = listener.getsockname()
        sock.close()
        found = of_here(tracer)
    mine = [life for life in found if life[-1].rport == nobody[1]]
    assert [path(life) for life in mine] == ["CLOSE SYN_SENT CLOSE"] * 3
    (last,) = (life for life in found if life[-1].rport == there[1])
    assert path(last).startswith("CLOSE SYN_SENT ESTABLISHED FIN_WAIT1")
    assert len({life[0].skaddr for life in [*mine, last]}) == 1
    for life in [*mine, last]:
        assert [change.us is None for change in life][:2] == [True, False]


def test_began_before_the_tool() -> None:
    with socket.create_server((HERE, 0)) as listener:
        client = connect_from_here(listener)
        server = listener.accept()[0]
        here = client.getsockname()
        with ours("--json", tool=STATES) as tracer:
            client.close()
            assert server.recv(1) == b""
            time.sleep(0.02)
            server.close()
            found = of_here(tracer)
    first, second = sorted(found, key=lambda life: life[0].lport != here[1])
    assert path(first) == f"ESTABLISHED {FIRST}"
    assert path(second) == f"ESTABLISHED {SECOND}"
    for life in (first, second):
        assert life[0].us is None
        assert all(change.us is not None for change in life[1:])
        assert sum(change.us or 0 for change in life) < 10_000_000
    assert (second[1].us or 0) >= 20_000  # CLOSE_WAIT


def test_pid_filter_keeps_the_queue_of_a_closed_listener() -> None:
    """Nobody accepts the session: its owner is known at its last change only."""
    with ours("--json", "-p", str(os.getpid()), tool=STATES) as tracer:
        listener = socket.create_server((HERE, 0))
        client = connect_from_here(listener)
        listener.close()
        client.close()
        found = of_here(tracer)
    assert "LISTEN SYN_RECV ESTABLISHED CLOSE" in map(path, found)


QUICK = 3000


@again_if_blind
def test_reused_socket_addresses() -> None:
    """Many quick sessions in a row: all changes, no duration carried over."""
    began = time.monotonic()
    with ours("-s", "-t", tool=STATES) as exact, ours("--json", tool=STATES) as tracer:
        with socket.create_server((HERE, 0)) as listener:
            for n in range(QUICK):
                client = connect_from_here(listener)
                server = listener.accept()[0]
                first, second = (client, server) if n % 2 else (server, client)
                first.close()
                assert second.recv(1) == b""
                second.close()
        found = of_here(tracer)
        assert exact.stop() == 0
    took_us = (time.monotonic() - began) * 1_000_000
    assert Counter(map(path, found)) == {
        "CLOSE LISTEN CLOSE": 1,
        f"CLOSE SYN_SENT ESTABLISHED {FIRST}": QUICK // 2,
        f"CLOSE SYN_SENT ESTABLISHED {SECOND}": QUICK // 2,
        f"LISTEN SYN_RECV ESTABLISHED {FIRST}": QUICK // 2,
        f"LISTEN SYN_RECV ESTABLISHED {SECOND}": QUICK // 2,
    }
    assert len({life[0].skaddr for life in found}) < len(found)
    for life in found:
        assert life[0].us is None
        assert all(0 <= (change.us or 0) <= took_us for change in life)
        assert None not in [change.us for change in life[1:]]
    in_csv = lives(parse_csv(line) for line in exact.lines[1:] if f",{HERE}," in line)
    assert len(in_csv) == len(found)
    for life in in_csv:
        check_durations(life)


# ---- filters ------------------------------------------------------------------

Options = dict[str, str]
STATE_FILTERS: list[Options] = [
    {"--state": "SYN_SENT"},
    {"--state": "syn_recv,CLOSE-WAIT"},
    {"--state": "LISTEN", "-L": "8000"},
    {"--state": "SYN_RECV", "-D": "10000-65535", "-6": ""},
]
FILTERS = {
    " ".join(itertools.chain(*options.items())).rstrip(): options
    for options in test_filters.SINGLE + test_filters.COMBINED + STATE_FILTERS
}


class Filtered(NamedTuple):
    pids: dict[str, int]
    lives: list[Life]
    owners: dict[Key, int]
    found: dict[str, list[Change]]


@pytest.fixture(scope="module")
def filtered(network: Network) -> Iterator[Filtered]:
    """All tracers watch the same sessions at the same time."""
    hosts = [address for host in network_hosts(network) for address in host]
    with ExitStack() as stack:
        stage = Stage(network, "ipv4")
        stack.callback(stage.close)
        cast = {
            "client-1": stage.client(),
            "client-2": stage.client(),
            "server-1": stage.server(),
            "server-2": stage.server(),
        }
        pids = {name: remote.pid for name, remote in cast.items()}
        tracers = {
            name: stack.enter_context(
                ours("--json", *test_filters.arguments(options, pids), tool=STATES)
            )
            for name, options in FILTERS.items()
        }
        everything = stack.enter_context(ours("--json", tool=STATES))
        feed = Feed(everything, [*hosts, "::"])
        ends = test_filters.play(network, cast)
        assert not feed.wait_for_closed(end.key for end in ends)
        for tracer in (everything, *tracers.values()):
            assert tracer.stop() == 0

        def of_ours(feed: Feed) -> list[Change]:
            """Others may be listening at any address, too."""
            return [
                change
                for change in feed.changes()
                if change.laddr in hosts or change.pid in pids.values()
            ]

        yield Filtered(
            pids,
            lives(of_ours(feed)),
            {end.key: end.pid for end in ends},
            {
                name: of_ours(Feed(tracer, [*hosts, "::"]))
                for name, tracer in tracers.items()
            },
        )


def owner(life: Life, n: int, owners: dict[Key, int]) -> int | None:
    """The owner as known at a change, or else as soon as there was one."""
    known = [change.pid for change in life[n:] if change.pid]
    return known[0] if known else owners.get(life[-1].key)


def selected(options: Options, traced: Filtered) -> list[Change]:
    """What the filters say, put plainly: a port or family is the session's."""
    return [
        change
        for life in traced.lives
        for n, change in enumerate(life)
        if all(
            selects(option, value, life, n, traced) for option, value in options.items()
        )
    ]


def selects(option: str, value: str, life: Life, n: int, traced: Filtered) -> bool:
    if option in ("-4", "-6"):
        return life[-1].ip == int(option[1])
    if option == "--state":
        states = value.upper().replace("-", "_").split(",")
        return life[n].old in states or life[n].new in states
    numbers: set[int | None]
    if option == "-p":
        numbers = {owner(life, n, traced.owners)}
    else:
        local = option == "-L"
        numbers = {change.lport if local else change.rport for change in life}
    return any(
        int(first) <= (number or 0) <= int(last or first)
        for number in numbers
        for first, _, last in (
            word.partition("-")
            for word in test_filters.with_pids(value, traced.pids).split(",")
        )
    )


@pytest.mark.parametrize("name", FILTERS)
def test_filter_selects_sessions_whole(filtered: Filtered, name: str) -> None:
    def told(change: Change) -> tuple[object, ...]:
        # Each tracer has a clock reading of its own.
        return change._replace(at_us=0, us=None)

    wanted = selected(FILTERS[name], filtered)
    # Or else the test could not fail.
    assert 0 < len(wanted) < sum(map(len, filtered.lives))
    assert Counter(map(told, filtered.found[name])) == Counter(map(told, wanted))
    # What is held back comes in order, too.
    assert {
        socket: [told(change) for change in changes]
        for socket, changes in by_socket(filtered.found[name]).items()
    } == {
        socket: [told(change) for change in changes]
        for socket, changes in by_socket(wanted).items()
    }


def by_socket(changes: list[Change]) -> dict[str, list[Change]]:
    found: dict[str, list[Change]] = {}
    for change in changes:
        found.setdefault(change.skaddr, []).append(change)
    return found


@pytest.mark.parametrize("option", ["-L", "-D"])
def test_changes_without_a_port_are_kept(filtered: Filtered, option: str) -> None:
    """Where bcc's filter drops them. Newer kernels know the remote port at once."""
    found = filtered.found[f"{option} 10000-65535"]
    if option == "-L":
        assert any(each.new == "SYN_SENT" and not each.lport for each in found)
    else:
        assert any(each.new == "SYN_RECV" for each in found)


# ---- layout -------------------------------------------------------------------

STATE = r"(?:[A-Z_]+\d?)"
NARROW = (
    r"(?P<SKADDR>[0-9a-f]{16}) (?P<PID>\d+) +(?P<COMM>.{10}) (?P<LADDR>[\d.]+) +"
    r"(?P<LPORT>\d+) +(?P<RADDR>[\d.]+) +(?P<RPORT>\d+) +"
    rf"(?P<OLDSTATE>{STATE}) +-> (?P<NEWSTATE>{STATE}) +(?P<MS>\d+\.\d{{3}})"
)
WIDE = NARROW.replace(".{10}", ".{16}").replace("(?P<LADDR>", r"(?P<IP>4) +(?P<LADDR>")
ROW_CSV = (
    r"[0-9a-f]{16},\d+,.*,4,[\d.]+,\d+,[\d.]+,\d+,"
    rf"{STATE},{STATE},\d+\.\d{{3}}"
)
COMBINATIONS = [
    tuple(
        option for option, on in zip(("-T", "-t", "-w", "-s"), flags, strict=True) if on
    )
    for flags in itertools.product((False, True), repeat=4)
]


@pytest.fixture(scope="module")
def laid_out() -> Iterator[dict[tuple[str, ...], list[str]]]:
    mine = ("-4", "-p", str(os.getpid()))
    with ExitStack() as stack:
        tracers = {
            options: stack.enter_context(ours(*options, *mine, tool=STATES))
            for options in COMBINATIONS
        }
        with socket.create_server((HERE, 0)) as listener:
            for _ in range(5):
                with connect_from_here(listener) as client:
                    listener.accept()[0].close()
                    assert client.recv(1) == b""
        for tracer in tracers.values():
            assert tracer.stop() == 0
        yield {options: tracer.lines for options, tracer in tracers.items()}


@pytest.mark.parametrize("options", COMBINATIONS, ids=" ".join)
def test_rows_are_laid_out(
    laid_out: dict[tuple[str, ...], list[str]], options: tuple[str, ...]
) -> None:
    header, *rows = laid_out[options]
    # 5 sessions, 2 ends, 5 changes; the listener's 2.
    assert len(rows) == 52
    csv = "-s" in options
    comma = "," if csv else " +"
    form = ROW_CSV if csv else WIDE if "-w" in options else NARROW
    if "-t" in options:
        form = rf"(?P<ELAPSED>\d+\.\d{{6}}){comma}{form}"
    if "-T" in options:
        form = rf"(?P<TIME>\d\d:\d\d:\d\d){comma}{form}"
    matches = [re.fullmatch(form, row) for row in rows]
    assert all(matches), rows
    if csv:
        titles = "SKADDR,C-PID,C-COMM,IP,LADDR,LPORT,RADDR,RPORT,OLDSTATE,NEWSTATE,MS"
        before = "TIME," * ("-T" in options) + "TIME(s)," * ("-t" in options)
        assert header == before + titles
        return
    starts = {title: header.index(title) for title in ("SKADDR", "LADDR", "RADDR")}
    starts |= {title: header.index(title) for title in ("LPORT", "RPORT", "OLDSTATE")}
    starts |= {"NEWSTATE": header.index("NEWSTATE"), "MS": header.rindex("MS")}
    starts |= {"PID": header.index("C-PID"), "COMM": header.index("C-COMM")}
    if "-w" in options:
        starts["IP"] = header.index("IP")
    for match in matches:
        assert match
        if int(match["PID"]) < 100_000:
            assert {title: match.start(title) for title in starts} == starts


def test_first_change_has_0_in_the_table(
    laid_out: dict[tuple[str, ...], list[str]],
) -> None:
    rows = [row.split() for row in laid_out[()][1:]]
    firsts = [
        row
        for row in rows
        if row[-4:-1] in (["CLOSE", "->", "SYN_SENT"], ["LISTEN", "->", "SYN_RECV"])
    ]
    assert len(firsts) == 10
    assert {row[-1] for row in firsts} == {"0.000"}
