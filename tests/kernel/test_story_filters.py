"""Filters on a session's story select what filtering the unfiltered output would."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address, ip_network
from itertools import cycle, product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from . import cgroup
from .blind import played_again_if_blind
from .netns import Network, run_in
from .remote import Remote
from .scenarios import (
    FAMILIES,
    End,
    Key,
    Link,
    Stage,
    connect,
    cut,
    destroyed,
    failed_connect,
    part,
    transfer,
)
from .tracer import Tracer, ours

# On the server's host: a port where connects are unreachable, and one whose first SYN
# is lost, so that a connect takes a second and then succeeds.
UNREACHABLE, SLOW = 5001, 5002
ANSWERS = f"""
table inet answers {{
    set seen {{ type inet_service; size 65535; flags dynamic; }}
    chain input {{
        type filter hook input priority 1;
        tcp dport {UNREACHABLE} reject with icmpx host-unreachable
        tcp dport {SLOW} tcp flags & (syn | ack) == syn tcp sport != @seen \
            add @seen {{ tcp sport }} drop
    }}
}}
"""
REFUSED, SILENT = 5003, 5004
PORTS = (4443, 8000, 8999)
SIZES = (0, 1, 100, 5_000)
UNNAMED_UID = 54_321

# Options and values; {…} stands for what World.names has by that name.
Options = dict[str, str]
EACH: dict[str, list[str]] = {
    "--laddr": [
        "{client4}",
        "{server6}",
        "{client4}/31",
        "{client6}/64",
        "0.0.0.0/0",
        "{client4},{server6}",
        "192.0.2.1,{server4},2001:db8::/32,{server6}/128",
    ],
    "--raddr": [
        "{server4}",
        "{client6}",
        "{client4}/31",
        "{client6}/64",
        "0.0.0.0/0",
        "{client4}/24,{server6}",
        "{client6},{client4}",
    ],
    "--comm": ["curl", "a b", "nginx,web", "cur,curl", "fifteen-chars.x-and-more"],
    "-u": ["www-data", "0", f"root,{UNNAMED_UID}"],
    "--uid": ["33,65534"],
    "--netns": [
        "{client_ns}",
        "/run/netns/{server_ns}",
        "{pid_nginx}",
        "self",
        "{server_ns},{pid_curl}",
    ],
    "--cgroup": ["{group}", "{group}/a", "{folder}/a/child", "{group}/ab/", "/"],
    "--dir": ["in", "out"],
    "--end": [
        "closed",
        "reset-by-peer",
        "reset-by-us",
        "refused",
        "unreachable",
        "timeout",
        "given-up",
        "destroyed",
        "refused,timeout",
        "failed",
        "failed, closed",
    ],
    "--min-ms": ["1000", "999.5"],
    "--min-bytes": ["1", "101", "102", "5100"],
    "--slower-connect": ["500"],
}
NOTHING: list[Options] = [
    {"--laddr": "192.0.2.0/24,2001:db8::/32"},
    {"--raddr": "{server4}/32", "-6": ""},
    {"--comm": "cur,CURL,curly"},
    {"--uid": "1234"},
    {"--netns": "self"},
    {"--cgroup": "{group}/empty"},
    {"--dir": "out", "-L": "4443"},
    {"--end": "open"},
    {"--min-ms": "1e9"},
    {"--min-bytes": "5101"},
    {"--slower-connect": "1e9"},
    {"--dir": "in", "--slower-connect": "0.001"},
]
COMBINED: list[Options] = [
    {"--comm": "curl", "-4": ""},
    {"--uid": "33", "-6": ""},
    {"--laddr": "{client4}", "-D": "8000-8999"},
    {"--raddr": "{client6}", "-L": "4443"},
    {"-p": "{pid_curl},{pid_nginx}", "--end": "reset-by-peer,closed"},
    {"--netns": "{server_ns}", "--comm": "nginx", "--min-bytes": "100"},
    {"--cgroup": "{group}/a", "--uid": f"{UNNAMED_UID}"},
    {"--min-bytes": "1", "--end": "closed", "-4": "", "-D": "4443,9000"},
    {"--min-ms": "1000", "--end": "timeout"},
    {"--slower-connect": "500", "--end": "closed", "-p": "{pid_web}"},
    {"--dir": "in", "--end": "failed", "-L": "4443,8000-8500", "-6": ""},
    {
        "-p": "{pid_web},{pid_curl}",
        "-D": f"{SLOW}",
        "-4": "",
        "--laddr": "{client4}/24",
        "--raddr": "{server4}",
        "--comm": "web,curl",
        "-u": "root,33",
        "--netns": "{client_ns}",
        "--cgroup": "{group}",
        "--dir": "out",
        "--end": "closed,refused",
        "--min-ms": "500",
        "--min-bytes": "100",
        "--slower-connect": "500",
    },
]
# Where the tracer itself has to be in a namespace of the traffic's.
INSIDE = ("--netns self",)


def name_of(options: Options) -> str:
    return " ".join(word for pair in options.items() for word in pair if word)


SINGLE: list[Options] = [
    {option: value} for option, values in EACH.items() for value in values
]
FOUND = {name_of(options): options for options in SINGLE + COMBINED}
MISSED = {f"nothing: {name_of(options)}": options for options in NOTHING}
FILTERS = FOUND | MISSED

# Sessions that are meant to be short, or quick to connect, may be held up; tracers
# measure each for itself. So what is this near to a limit in milliseconds may be
# selected or not, if only the tracer's own figure agrees with it.
NEAR = 300.0
SURE, PERHAPS = NEAR, -NEAR

Row = dict[str, Any]
# What tracers must agree on: all but the times that they measure.
AGREED = (
    *("laddr", "lport", "raddr", "rport", "ip", "pid", "comm", "tx_bytes", "rx_bytes"),
    *("dir", "end", "first", "errno", "uid", "netns", "cgroup", "born"),
)


class World(NamedTuple):
    names: dict[str, str | int]
    inodes: dict[str, int]  # of what --netns may be given


class Traced(NamedTuple):
    world: World
    unfiltered: list[Row]
    filtered: dict[str, list[Row]]


@pytest.fixture(scope="module")
@played_again_if_blind
def traced(network: Network) -> Iterator[Traced]:
    """All tracers watch the same sessions at the same time."""
    with ExitStack() as stack:
        folder = stack.enter_context(cgroup.folder("filters"))
        stack.enter_context(answers(network))
        stages = {family: Stage(network, family) for family in FAMILIES}
        for stage in stages.values():
            stack.callback(stage.close)
        cast = processes(network, folder, stack)
        world = world_of(network, folder, cast)
        tracers = start(stack, network, world)
        everything = stack.enter_context(ours("--json", *network.only))
        ends = play(stages, cast)
        assert everything.wait_for_ends(ends)
        keys = {end.key for end in ends}
        for tracer in (everything, *tracers.values()):
            tracer.process.send_signal(signal.SIGINT)
        unfiltered = rows_of(everything, keys)
        filtered = {name: rows_of(tracer, keys) for name, tracer in tracers.items()}
        strays = taken_by_walkers(ends, [unfiltered, *filtered.values()])
        assert len(strays) < len(keys) / 10
        yield Traced(
            world,
            without(strays, unfiltered),
            {name: without(strays, rows) for name, rows in filtered.items()},
        )


def taken_by_walkers(ends: list[End], traced: list[list[Row]]) -> set[Key]:
    """Ends for which somebody else was named.

    A tracer that looks for owners holds each file for a moment. If that is closed
    just then, it is the tracer's process that really closes it, and whichever of the
    many here has not named the owner yet names that one.
    """
    owners = {end.key: end.pid for end in ends}
    return {
        key_of(row)
        for rows in traced
        for row in rows
        if row["pid"] != owners[key_of(row)]
    }


def without(keys: set[Key], rows: list[Row]) -> list[Row]:
    return [row for row in rows if key_of(row) not in keys]


def start(stack: ExitStack, network: Network, world: World) -> dict[str, Tracer]:
    """By the filters' names. Several at a time: they mostly wait for the kernel."""
    inside = ("nsenter", f"--net=/run/netns/{network.client.namespace}")

    def one(name: str) -> Tracer:
        options = arguments(FILTERS[name], world)
        # Others' sessions would all be written as many times as there are tracers.
        if "--netns" not in options:
            options += network.only
        prefix = inside if name in INSIDE else ()
        return stack.enter_context(ours("--json", *options, prefix=prefix))

    with ThreadPoolExecutor() as pool:
        return dict(zip(FILTERS, pool.map(one, FILTERS), strict=True))


@contextmanager
def answers(network: Network) -> Iterator[None]:
    run_in(network.server, "nft", "-f", "-", stdin=ANSWERS)
    try:
        yield
    finally:
        run_in(network.server, "nft", "delete table inet answers")


def processes(network: Network, folder: Path, stack: ExitStack) -> dict[str, Remote]:
    """By comm; of several users and cgroups."""
    for name in ("a", "a/child", "ab", "empty"):
        (folder / name).mkdir()
    cast = {}
    for comm, host, uid, group in (
        ("web", network.client, 0, "a"),
        ("curl", network.client, 33, "a/child"),
        ("fifteen-chars.x", network.client, UNNAMED_UID, "a/child"),
        ("a b", network.client, 65_534, "ab"),
        ("nginx", network.server, 33, ""),
        ("srv", network.server, 0, None),
    ):
        cast[comm] = remote = Remote(host, comm)
        stack.callback(remote.close)
        if group is not None:
            cgroup.join(folder / group, remote.pid)
        remote.call("become", uid)
    return cast


def world_of(network: Network, folder: Path, cast: dict[str, Remote]) -> World:
    names: dict[str, str | int] = {
        "folder": str(folder),
        "group": cgroup.below_root(folder),
        **{f"pid_{comm}": remote.pid for comm, remote in cast.items()},
    }
    inodes: dict[str, int] = {}
    for role, host in (("client", network.client), ("server", network.server)):
        names |= {
            f"{role}4": host.ipv4,
            f"{role}6": host.ipv6,
            f"{role}_ns": host.namespace,
        }
        path = f"/run/netns/{host.namespace}"
        inode = os.stat(path).st_ino
        pids = [str(remote.pid) for remote in cast.values()]
        inodes |= {host.namespace: inode, path: inode} | {
            pid: inode for pid in pids if os.stat(f"/proc/{pid}/ns/net").st_ino == inode
        }
    return World(names, inodes)


def arguments(options: Options, world: World) -> list[str]:
    return [
        word
        for option, value in options.items()
        for word in (option, value.format_map(world.names))
        if word
    ]


def rows_of(tracer: Tracer, seen: set[Key]) -> list[Row]:
    """All rows of ours: others may be using the network meanwhile."""
    assert tracer.finish() == 0
    assert not [line for line in tracer.errors if "full" in line or "memory" in line]
    rows = map(json.loads, tracer.lines)
    return [row for row in rows if key_of(row) in seen]


def key_of(row: Row) -> Key:
    return row["laddr"], row["lport"], row["raddr"], row["rport"]


def play(stages: dict[str, Stage], cast: dict[str, Remote]) -> list[End]:
    """Sessions of all families, owners and sizes, with all the ends there are."""
    clients = [cast[comm] for comm in ("web", "curl", "fifteen-chars.x", "a b")]
    servers = cycle([cast["nginx"], cast["srv"]])
    ports = cycle(PORTS)
    ends: list[End] = []
    network = stages["ipv4"].network
    network.drop(SILENT)
    # Which is mostly waiting.
    with ThreadPoolExecutor() as pool:
        failing = [pool.submit(failures, stages[name]) for name in ("ipv4", "ipv6")]
        for stage, client, ending in product(stages.values(), clients, ENDINGS):
            link = connect(stage, client, next(servers), next(ports))
            size = SIZES[len(ends) // 2 % len(SIZES)]
            transfer(client, link.server, size)
            transfer(link.server, client, 100 if size else 0)
            link.settle()
            ending(link)
            ends += link.ends(size, 100 if size else 0)
        ends += lasting(stages["ipv4"], stages["ipv6"], cast)
        for play in failing:
            ends += play.result()
    network.undrop(SILENT)
    return ends


def failures(stage: Stage) -> list[End]:
    """Connects that are not answered, or not as they should."""
    client = stage.client()
    port = client.call("begin_connect", "s", stage.connect_host, SILENT)
    client.call("close", "s")
    return [
        Link(stage, client, client, port, SILENT).client_end(0, 0),
        *(failed_connect(stage, port) for port in (REFUSED, UNREACHABLE, SILENT)),
    ]


def lasting(stage: Stage, other: Stage, cast: dict[str, Remote]) -> list[End]:
    """Slow to connect, and then open for as long as another connect takes."""
    long = connect(stage, cast["web"], cast["nginx"], SLOW)
    short = connect(other, cast["curl"], cast["srv"], SLOW)
    transfer(short.client, short.server, 1)
    transfer(long.client, long.server, 5_000)
    for link in (short, long):
        link.settle()
        part(link.server, link.client)
    return [*long.ends(5_000, 0), *short.ends(1, 0)]


def client_closes(link: Link) -> None:
    part(link.client, link.server)


def server_closes(link: Link) -> None:
    part(link.server, link.client)


def client_resets(link: Link) -> None:
    cut("reset", link.client, link.server)


def server_resets(link: Link) -> None:
    cut("reset", link.server, link.client)


def killed_by_ss(link: Link) -> None:
    destroyed(link.client, link.server, link)


ENDINGS = (client_closes, server_closes, client_resets, server_resets, killed_by_ss)

FAILED = {
    *("reset-by-peer", "reset-by-us", "refused", "unreachable", "timeout"),
    *("given-up", "destroyed"),
}
USERS = {"root": 0, "www-data": 33}


def selects(options: Options, row: Row, world: World, slack: float = 0) -> bool:
    """What the filters say, put plainly. slack: added to limits of milliseconds."""
    return all(
        CHECKS[option](value.format_map(world.names), row, world, slack)
        for option, value in options.items()
    )


def in_subnets(key: str) -> Check:
    return lambda text, row, *_: any(
        ip_address(row[key]) in ip_network(word, strict=False)
        for word in text.split(",")
    )


def in_ports(key: str) -> Check:
    def check(text: str, row: Row, *_: object) -> bool:
        ranges = [word.partition("-") for word in text.split(",")]
        return any(int(low) <= row[key] <= int(high or low) for low, _, high in ranges)

    return check


def of_users(text: str, row: Row, *_: object) -> bool:
    return row["uid"] in {
        USERS[word] if word in USERS else int(word) for word in text.split(",")
    }


def in_namespaces(text: str, row: Row, world: World, _: float) -> bool:
    """The tests are in neither namespace, but see INSIDE."""
    return row["netns"] in {world.inodes.get(word) for word in text.split(",")}


def in_cgroup(text: str, row: Row, *_: object) -> bool:
    wanted = text.removeprefix(str(cgroup.root())).rstrip("/") + "/"
    return f"{row['cgroup'] or ''}/".startswith(wanted)


def ends_so(text: str, row: Row, *_: object) -> bool:
    wanted = set(text.replace(" ", "").split(","))
    return row["end"] in wanted | (FAILED if "failed" in wanted else set())


Check = Callable[[str, Row, World, float], bool]
CHECKS: dict[str, Check] = {
    "--laddr": in_subnets("laddr"),
    "--raddr": in_subnets("raddr"),
    "--comm": lambda text, row, *_: (
        row["comm"] in [word[:15] for word in text.split(",")]
    ),
    "-u": of_users,
    "--uid": of_users,
    "--netns": in_namespaces,
    "--cgroup": in_cgroup,
    "--dir": lambda text, row, *_: row["dir"] == text,
    "--end": ends_so,
    "--min-ms": lambda text, row, _, slack: row["ms"] >= float(text) + slack,
    "--min-bytes": lambda text, row, *_: (
        row["tx_bytes"] + row["rx_bytes"] >= float(text)
    ),
    "--slower-connect": lambda text, row, _, slack: (
        row["connect_ms"] is not None and row["connect_ms"] >= float(text) + slack
    ),
    "-p": lambda text, row, *_: str(row["pid"]) in text.split(","),
    "-L": in_ports("lport"),
    "-D": in_ports("rport"),
    "-4": lambda _text, row, *_: row["ip"] == 4,
    "-6": lambda _text, row, *_: row["ip"] == 6,
}


def count(rows: list[Row]) -> Counter[tuple[Any, ...]]:
    return Counter(tuple(row[name] for name in AGREED) for row in rows)


def wanted(traced: Traced, name: str, slack: float) -> list[Row]:
    world = traced.world
    if name in INSIDE:
        inode = world.inodes[str(world.names["client_ns"])]
        world = world._replace(inodes={"self": inode})
    return [
        row for row in traced.unfiltered if selects(FILTERS[name], row, world, slack)
    ]


@pytest.mark.parametrize("name", FILTERS)
def test_filter_selects_what_filtering_would(traced: Traced, name: str) -> None:
    found = count(traced.filtered[name])
    assert count(wanted(traced, name, SURE)) - found == Counter()
    assert found - count(wanted(traced, name, PERHAPS)) == Counter()


@pytest.mark.parametrize("name", FOUND)
def test_filter_finds_some(traced: Traced, name: str) -> None:
    assert wanted(traced, name, SURE)


@pytest.mark.parametrize("name", MISSED)
def test_filter_finds_nothing(traced: Traced, name: str) -> None:
    assert wanted(traced, name, PERHAPS) == []
    assert traced.filtered[name] == []


@pytest.mark.parametrize("option", EACH)
def test_option_leaves_some_out(traced: Traced, option: str) -> None:
    """Or else it could be one that does nothing."""
    everything = len(traced.unfiltered)
    assert [
        value
        for value in EACH[option]
        if len(wanted(traced, name_of({option: value}), PERHAPS)) < everything
    ]


@pytest.mark.parametrize("option", ["--min-ms", "--slower-connect"])
def test_limit_is_kept_by_the_tracers_own_measure(traced: Traced, option: str) -> None:
    names = [name for name, options in FOUND.items() if option in options]
    assert names
    for name in names:
        limit = {option: FOUND[name][option]}
        assert traced.filtered[name]
        for row in traced.filtered[name]:
            assert selects(limit, row, traced.world)


def test_traffic_is_of_all_kinds(traced: Traced) -> None:
    rows = traced.unfiltered
    assert {row["end"] for row in rows} == {"closed", *FAILED}
    assert {row["dir"] for row in rows} == {"in", "out"}
    assert {row["uid"] for row in rows} == {0, 33, 65_534, UNNAMED_UID}
    assert {row["ip"] for row in rows} == {4, 6}
    assert len({row["cgroup"] for row in rows}) == 5
    assert len({row["netns"] for row in rows}) == 2
