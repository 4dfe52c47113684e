"""Sessions that are older than the trace, or outlive it: -a, SIGUSR1 and --open."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from ipaddress import IPv6Address, ip_address
from itertools import product
from typing import Any, NamedTuple

import pytest

from .blind import Blind, blind_spots
from .netns import SYSCTLS, Host, Network, network, run_in
from .remote import Remote
from .scenarios import (
    FAMILIES,
    End,
    Key,
    Link,
    Stage,
    cut,
    establish,
    exchanged,
    part,
    passed,
    transfer,
)
from .tracer import OURS, Tracer, ours

SILENT = 5005  # its packets are dropped
PORT = 8002

Row = dict[str, Any]


class Told(NamedTuple):
    """What a row must say."""

    end: End
    dir: str | None
    how: str
    first: str | None


# A session in two parts: what is done before the trace, and what within it.
Halves = Iterator[list[Told]]


def both(link: Link, how: tuple[str, str], first: str, *volumes: int) -> list[Told]:
    """How the client's end ends, and the server's; the one that closes first."""
    client, server = link.ends(*volumes)
    theirs = {"local": "remote", "remote": "local"}[first]
    return [
        Told(client, "out", how[0], first),
        Told(server, "in", how[1], theirs),
    ]


CLOSED = ("closed", "closed")


def client_closes(stage: Stage) -> Halves:
    link = exchanged(stage)
    yield []
    link.exchange()
    part(link.client, link.server)
    yield both(link, CLOSED, "local", 200, 400)


def server_closes(stage: Stage) -> Halves:
    link = exchanged(stage)
    yield []
    link.exchange()
    part(link.server, link.client)
    yield both(link, CLOSED, "remote", 200, 400)


def nothing_is_sent(stage: Stage) -> Halves:
    link = establish(stage)
    yield []
    part(link.server, link.client)
    yield both(link, CLOSED, "remote", 0, 0)


def client_resets(stage: Stage) -> Halves:
    """The server only holds its end: it does nothing with it before that is over."""
    link = exchanged(stage)
    yield []
    cut("reset", link.client, link.server)
    yield both(link, ("reset-by-us", "reset-by-peer"), "local", 100, 200)


def server_killed(stage: Stage) -> Halves:
    link = exchanged(stage)
    yield []
    link.server.kill()
    link.client.call("recv_eof", "s")
    link.client.call("close", "s")
    yield both(link, CLOSED, "remote", 100, 200)


def half_closed_before(stage: Stage) -> Halves:
    """Its first FIN is older than the trace."""
    link = exchanged(stage)
    link.client.call("shutdown", "s")
    link.server.call("recv_eof", "s")
    link.client.call("await_acks", "s")
    yield []
    transfer(link.server, link.client, 5_000)
    part(link.server, link.client)
    yield both(link, CLOSED, "local", 100, 5_200)


def forked_before(stage: Stage) -> Halves:
    link = exchanged(stage)
    link.server.fork("-child")
    yield []
    cut("reset", link.client, link.server)
    yield both(link, ("reset-by-us", "reset-by-peer"), "local", 100, 200)


def forked_within(stage: Stage) -> Halves:
    link = exchanged(stage)
    yield []
    link.client.fork("-child")
    cut("reset", link.server, link.client)
    yield both(link, ("reset-by-peer", "reset-by-us"), "remote", 100, 200)


def passed_before(stage: Stage) -> Halves:
    link = exchanged(stage)
    link.client = passed(link.client, stage.client)
    yield []
    cut("reset", link.server, link.client)
    yield both(link, ("reset-by-peer", "reset-by-us"), "remote", 100, 200)


def passed_within(stage: Stage) -> Halves:
    link = exchanged(stage)
    yield []
    link.server = passed(link.server, stage.server)
    part(link.client, link.server)
    yield both(link, CLOSED, "local", 100, 200)


def accepted_within(stage: Stage) -> Halves:
    """When the trace begins it is in the listener's queue."""
    client, server = stage.client(), stage.server()
    server_port = server.call("listen", "l", stage.listen_host)
    client_port = client.call("connect", "s", stage.connect_host, server_port)
    link = Link(stage, client, server, client_port, server_port)
    client.call("send", "s", 100)
    client.call("await_acks", "s")
    yield []
    server.call("accept", "l", "s")
    server.call("recv", "s", 100)
    part(link.client, link.server)
    yield both(link, CLOSED, "local", 100, 0)


def given_up(stage: Stage) -> Halves:
    """Nothing says which way a handshake went that began before the trace."""
    client = stage.client()
    port = client.call("begin_connect", "s", stage.connect_host, SILENT)
    yield []
    client.call("close", "s")
    end = Link(stage, client, client, port, SILENT).client_end(0, 0)
    yield [Told(end, None, "given-up", None)]


OLDER: dict[str, Callable[[Stage], Halves]] = {
    play.__name__: play
    for play in (
        client_closes,
        server_closes,
        nothing_is_sent,
        client_resets,
        server_killed,
        half_closed_before,
        forked_before,
        forked_within,
        passed_before,
        passed_within,
        accepted_within,
        given_up,
    )
}


class Traced(NamedTuple):
    plays: dict[tuple[str, str], list[Told]]
    newer: list[End]
    rows: list[Row]
    table: list[list[str]]


@pytest.fixture(scope="module")
def traced(network: Network) -> Iterator[Traced]:
    with ExitStack() as stack:
        stages = {family: Stage(network, family) for family in FAMILIES}
        for stage in stages.values():
            stack.callback(stage.close)
        stack.enter_context(unanswered(network))
        halves = {
            (name, family): OLDER[name](stages[family])
            for name, family in product(OLDER, FAMILIES)
        }
        for play in halves.values():
            next(play)
        tracer = stack.enter_context(ours("--json", "-a", *network.only))
        table = stack.enter_context(ours("-a", *network.only))
        plays = {case: next(play) for case, play in halves.items()}
        newer = []
        for stage in stages.values():
            link = exchanged(stage)
            part(link.client, link.server)
            newer += link.ends()
        assert tracer.wait_for_ends(newer)
        for running in (tracer, table):
            assert running.stop() == 0
            assert losses(running) == []
        lines = [line.split() for line in table.lines]
        yield Traced(plays, newer, rows_of(tracer), lines)


@contextmanager
def unanswered(network: Network) -> Iterator[None]:
    """No connect to SILENT is answered, and none gives up while the tests need it."""
    retries = "/proc/sys/net/ipv4/tcp_syn_retries"
    network.drop(SILENT)
    run_in(network.client, "tee", retries, stdin="6")
    try:
        yield
    finally:
        run_in(network.client, "tee", retries, stdin=SYSCTLS["ipv4/tcp_syn_retries"])
        network.undrop(SILENT)


def rows_of(tracer: Tracer, start: int = 0) -> list[Row]:
    return [json.loads(line) for line in tracer.lines[start:]]


def losses(tracer: Tracer) -> list[str]:
    """What it lacked room for; who ends others' sessions is no matter of ours."""
    return [line for line in tracer.errors if "full" in line or "memory" in line]


def key_of(row: Row) -> Key:
    return row["laddr"], row["lport"], row["raddr"], row["rport"]


def end_of(row: Row) -> End:
    return End._make(row[name] for name in End._fields)


def of(ends: Iterable[End], rows: list[Row]) -> list[Row]:
    keys = {end.key for end in ends}
    return [row for row in rows if key_of(row) in keys]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", OLDER)
def test_older_session_is_told_once_and_right(
    traced: Traced, name: str, family: str
) -> None:
    told = traced.plays[name, family]
    rows = {key_of(row): row for row in traced.rows}
    found = [
        Told(end_of(row), row["dir"], row["end"], row["first"])
        for row in (rows[told_of.end.key] for told_of in told)
    ]
    assert found == told
    assert len(of((part.end for part in told), traced.rows)) == len(told)
    assert {rows[part.end.key]["born"] for part in told} == {"before-trace"}


def test_newer_session_is_told_once_and_right(traced: Traced) -> None:
    rows = of(traced.newer, traced.rows)
    assert sorted(map(end_of, rows)) == sorted(traced.newer)
    assert {row["born"] for row in rows} == {"traced"}


def test_lifespans_of_older_sessions_are_marked(traced: Traced) -> None:
    """In the table; the times of what was not seen are not known."""
    older = [told.end for tolds in traced.plays.values() for told in tolds]
    for ends, mark in ((older, ">"), (traced.newer, "")):
        for end in ends:
            laddr, lport, raddr, rport = end.key
            cells = [end.pid, end.comm[:10], laddr, lport, raddr, rport]
            [line] = [
                line for line in traced.table if line[:6] == list(map(str, cells))
            ]
            assert line[-1].startswith(mark)
            assert float(line[-1].removeprefix(mark)) >= 0
    for row in of(older, traced.rows):
        assert row["connect_ms"] is None


@pytest.fixture
def stage(network: Network) -> Iterator[Stage]:
    stage = Stage(network, "ipv4")
    yield stage
    stage.close()


def test_open_at_exit(stage: Stage) -> None:
    older, ended = exchanged(stage), exchanged(stage)
    # Its PID is lower than those of the owners, so that a walk comes to it first.
    other = stage.client()
    only = stage.network.only
    with ours("--json", "-a", *only) as tracer, ours("-a", *only) as table:
        newer, given, lent = (exchanged(stage) for _ in range(3))
        given.client = passed(given.client, stage.client)
        lend(lent.client, other)
        part(ended.client, ended.server)
        assert tracer.wait_for_ends(ended.ends())
        for running in (tracer, table):
            assert running.stop(signal.SIGTERM) == 0
    expected = {
        **dict.fromkeys(older.ends(), ("open", "before-trace", None)),
        **dict.fromkeys(newer.ends(), ("open", "traced", None)),
        **dict.fromkeys(given.ends(), ("open", "traced", None)),
        **dict.fromkeys(lent.ends(), ("open", "traced", None)),
        ended.client_end(): ("closed", "before-trace", "local"),
        ended.server_end(): ("closed", "before-trace", "remote"),
    }
    rows = of(expected, rows_of(tracer))
    assert len(rows) == len(expected)
    assert {
        end_of(row): (row["end"], row["born"], row["first"]) for row in rows
    } == expected
    assert {row["dir"] for row in of([older.client_end()], rows)} == {"out"}
    assert {row["dir"] for row in of([older.server_end()], rows)} == {"in"}
    # More of each is to come.
    pids = {str(end.pid) for end in expected}
    lines = [line.split() for line in table.lines]
    marks = [line[-1][0] for line in lines if line[0] in pids]
    assert marks == [">"] * len(expected)


def lend(owner: Remote, other: Remote) -> None:
    """Both have it open then; the one who acted on it is its owner."""
    other.call("hand_listen", other.comm)
    owner.call("lend", "s", other.comm)
    other.call("hand_take", "s", other.comm)


def test_sessions_that_end_as_the_tracer_does(stage: Stage) -> None:
    """Each is told at its end or as open, whichever came first, and once."""
    count = 500
    client, server = stage.client(), stage.client()
    address = loopback(3)
    server.call("listen", "l", address, PORT)
    open_many(client, server, address, count)
    with ours("--json", "-a", "-p", f"{client.pid},{server.pid}") as tracer:
        client.order("close_many")
        server.order("close_many")
        assert tracer.stop() == 0
        client.answer()
        server.answer()
    assert len(tracer.lines) == 2 * count
    assert len(set(map(key_of, rows_of(tracer)))) == 2 * count


def test_sigusr1_lists_what_is_open(stage: Stage) -> None:
    older = exchanged(stage)
    with ours("--json", "-a", *stage.network.only) as tracer:
        newer = exchanged(stage)
        both = [*older.ends(), *newer.ends()]
        older.exchange()
        lists = [listed(tracer, both)]
        part(older.client, older.server)
        assert tracer.wait_for(lambda: closed_rows(tracer, older) == 2)
        lists.append(listed(tracer, newer.ends()))
        assert tracer.process.poll() is None
        at_exit = len(tracer.lines)
        assert tracer.stop() == 0
    lists.append(of(both, rows_of(tracer, at_exit)))
    expected = [[*older.ends(200, 400), *newer.ends()], newer.ends(), newer.ends()]
    for rows, ends in zip(lists, expected, strict=True):
        assert sorted(map(end_of, rows)) == sorted(ends)
        assert {row["end"] for row in rows} == {"open"}
    # Being listed changes nothing about how it is told at its end.
    assert closed_rows(tracer, older) == 2


def closed_rows(tracer: Tracer, link: Link) -> int:
    return sum(row["end"] == "closed" for row in of(link.ends(), rows_of(tracer)))


def listed(tracer: Tracer, ends: list[End]) -> list[Row]:
    """The rows of these that a SIGUSR1 brings."""
    start = len(tracer.lines)
    tracer.process.send_signal(signal.SIGUSR1)

    def all_of() -> bool:
        return len(of(ends, rows_of(tracer, start))) >= len(ends)

    assert tracer.wait_for(all_of)
    return of(ends, rows_of(tracer, start))


@pytest.fixture
def quiet() -> Iterator[Network]:
    """No other test has left anything there."""
    with network("quiet-") as made:
        yield made


def test_open_agrees_with_ss(quiet: Network) -> None:
    with ExitStack() as stack:
        stack.enter_context(unanswered(quiet))
        ends = []
        for family in FAMILIES:
            stage = Stage(quiet, family)
            stack.callback(stage.close)
            ends += in_all_states(stage)
        rows = [json.loads(line) for line in lines_of("--json", "--open")]
        table = [line.split() for line in lines_of("--open")]
        hosts = (quiet.client, quiet.server)
        by_ss = {namespace(host): sessions_by_ss(host) for host in hosts}
    assert {row["end"] for row in rows} == {"open"}
    found = {inode: Counter[Key]() for inode in by_ss}
    for row in rows:
        if row["netns"] in found:
            found[row["netns"]][key_of(row)] += 1
    assert found == by_ss
    ours = of(ends, rows)
    assert sorted(map(end_of, ours)) == sorted(ends)
    # Of all of them only a part was seen: none of it.
    for end in ends:
        [line] = [
            line for line in table if line[2:6] == [str(part) for part in end[:4]]
        ]
        assert line[0] == str(end.pid)
        assert line[-1].startswith(">")


def in_all_states(stage: Stage) -> list[End]:
    """Sessions whose owners are certain, and one that nobody has accepted."""
    established, half_closed, waiting = (exchanged(stage) for _ in range(3))
    half_closed.client.call("shutdown", "s")
    half_closed.client.call("await_acks", "s")
    waiting.server.call("shutdown", "s")
    waiting.server.call("await_acks", "s")
    client, listener = stage.client(), stage.server()
    port = client.call("begin_connect", "s", stage.connect_host, SILENT)
    connecting = Link(stage, client, client, port, SILENT)
    client = stage.client()
    server_port = listener.call("listen", "l", stage.listen_host)
    port = client.call("connect", "s", stage.connect_host, server_port)
    return [
        *established.ends(),
        *half_closed.ends(),
        *waiting.ends(),
        connecting.client_end(0, 0),
        Link(stage, client, listener, port, server_port).client_end(0, 0),
    ]


def lines_of(*options: str) -> list[str]:
    """What it prints before it leaves by itself."""
    argv = [*OURS, *options]
    done = subprocess.run(argv, capture_output=True, check=True, text=True, timeout=30)
    assert "full" not in done.stderr
    return done.stdout.splitlines()


def namespace(host: Host) -> int:
    return os.stat(f"/run/netns/{host.namespace}").st_ino


def sessions_by_ss(host: Host) -> Counter[Key]:
    """State Recv-Q Send-Q Local:Port Peer:Port; the states are all but minisockets'."""
    lines = [line.split() for line in run_in(host, "ss", "-tnH").splitlines()]
    states = {line[0] for line in lines}
    assert {"ESTAB", "CLOSE-WAIT", "FIN-WAIT-2"} <= states
    return Counter((*address(line[3]), *address(line[4])) for line in lines)


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    found = ip_address(host.strip("[]"))
    if isinstance(found, IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    return str(found), int(port)


def loopback(number: int) -> str:
    """Addresses follow the PID, as in netns; these are not the crowd's."""
    return f"127.{1 + (os.getpid() >> 8 & 127)}.{os.getpid() & 255}.{100 + number}"


def open_many(client: Remote, server: Remote, address: str, count: int) -> None:
    for remote in (client, server):
        remote.call("raise_files_limit", 20_000)
    batch = 1_000  # less than the listener's queue holds
    for opened in range(0, count, batch):
        size = min(batch, count - opened)
        client.call("connect_many", address, PORT, size)
        server.call("accept_many", "l", size)


# Of the server: those open before the trace, of which half end within it; and those
# that open within it.
OLD, NEW = 10_000, 1_000
HALF = OLD // 2
QUARTER = HALF // 2


def all_told(tracer: Tracer, blind: Blind, count: int) -> bool:
    return len(tracer.lines) >= count - len(set(blind.keys()))


def test_server_of_10_000_sessions_from_the_middle(crowded: Network) -> None:
    """Each is told once at its end, or once as open, with its owners."""
    with closing(Stage(crowded, "ipv4")) as stage:
        follow_from_the_middle(stage)


def follow_from_the_middle(stage: Stage) -> None:
    server, leaving, staying, coming = (stage.client() for _ in range(4))
    address = loopback(1)
    server.call("listen", "l", address, PORT)
    open_many(leaving, server, address, HALF)
    open_many(staying, server, address, HALF)
    pids = ",".join(str(remote.pid) for remote in (server, leaving, staying, coming))
    closed = 0
    with blind_spots() as blind:
        with ours("--json", "-a", "-p", pids) as tracer:
            open_many(coming, server, address, NEW)
            # The server's oldest are those that leave. Half of what the ring buffer
            # holds at a time: this is not about how fast the tracer reads.
            for first, second in ((leaving, server), (server, leaving)):
                first.call("close_many", QUARTER)
                second.call("close_many", QUARTER)
                closed += 2 * QUARTER
                tracer.wait_for(partial(all_told, tracer, blind, closed), patience=30)
            in_trace = len(tracer.lines)
            assert tracer.stop() == 0
        hidden = blind.keys()
    assert losses(tracer) == []
    unseen = {key for key in hidden if PORT in (key[1], key[3])}
    rows = [row for row in rows_of(tracer) if key_of(row) not in unseen]
    assert {row["end"] for row in rows_of(tracer)[:in_trace]} == {"closed"}

    keys = {key_of(row) for row in rows}
    # A change of a session that has no ports yet is of one of those.
    unnamed = sum(0 in (key[1], key[3]) for key in unseen)
    unseen = {key for key in unseen if 0 not in (key[1], key[3])}
    assert len(rows) == len(keys)
    lacking = {(*key[2:], *key[:2]) for key in keys | unseen} - keys - unseen
    assert len(lacking) <= unnamed, f"{lacking} of {hidden}; {tracer.errors}"
    assert len(keys | unseen) + len(lacking) == 2 * (OLD + NEW)

    clients = {remote.pid: remote for remote in (leaving, staying, coming)}
    owners = {(row["laddr"], row["lport"]): row["pid"] for row in rows}
    for row in rows:
        accepted = row["lport"] == PORT
        assert row["comm"] == (server if accepted else clients[row["pid"]]).comm
        assert row["dir"] == ("in" if accepted else "out")
        if accepted:
            assert row["pid"] == server.pid
    told: Counter[tuple[int | None, str, str]] = Counter()
    for row in rows:
        client = row["pid"]
        if row["lport"] == PORT:
            client = owners.get((row["raddr"], row["rport"]))
        told[client, row["end"], row["born"]] += 1
    few = len(unseen) + unnamed
    for client, how, born, count in (
        (leaving, "closed", "before-trace", 2 * HALF),
        (staying, "open", "before-trace", 2 * HALF),
        (coming, "open", "traced", 2 * NEW),
    ):
        assert count - 2 * few <= told[client.pid, how, born] <= count
