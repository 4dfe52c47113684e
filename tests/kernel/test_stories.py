"""A session's story: each way to begin and to end, from both sides."""

from __future__ import annotations

import csv
import itertools
import json
import pwd
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tcplife.columns.values import ENDS, FIRSTS

from .blind import played_again_if_blind
from .netns import Host, Network, run_in
from .remote import Remote, nursery
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
    cut,
    establish,
    exchanged,
    failed_connect,
    part,
    passed,
    transfer,
)
from .test_states import MORE, play_more
from .tracer import Tracer, ours, wait_until

Story = dict[str, Any]

# Outside the ephemeral range; scenarios.py and test_states.py have those before.
_private_ports = itertools.count(6000)

# ---- more sessions: those whose story no other scenario tells ----------------

# Who acts, and who is acted on.
Sides = Callable[[Link], tuple[Remote, Remote]]


def from_client(link: Link) -> tuple[Remote, Remote]:
    return link.client, link.server


def from_server(link: Link) -> tuple[Remote, Remote]:
    return link.server, link.client


def reject(host: Host, port: int, answer: str, ports: str = "dport") -> None:
    """Answer what comes to this port, or from it (`sport`), with ICMP."""
    rule = f"add rule inet test input tcp {ports} {port} reject with icmpx type"
    run_in(host, "nft", f"{rule} {answer}")


def rejected(answer: str, stage: Stage) -> list[End]:
    port = next(_private_ports)
    reject(stage.network.server, port, answer)
    return [failed_connect(stage, port)]


def no_neighbour(stage: Stage) -> list[End]:
    """Nobody has the address: it is our own host that says so."""
    client = stage.client()
    nobody = stage.address(stage.network.server)[:-1] + "99"
    host = f"::ffff:{nobody}" if stage.family == "mapped" else nobody
    with pytest.raises(OSError, match="No route to host"):
        client.call("connect", "s", host, 80)
    client_port = client.call("local_port", "s")
    client.call("close", "s")
    link = Link(stage, client, client, client_port, 80)
    return [link.client_end(0, 0)._replace(raddr=nobody)]


def client_cut_off(stage: Stage) -> list[End]:
    """Established; then ICMP says that there is no way, for as long as it takes."""
    link = exchanged(stage, next(_private_ports))
    reject(stage.network.server, link.server_port, "host-unreachable")
    give_up_on_data(link.client, link.server)
    return link.ends()


def server_cut_off(stage: Stage) -> list[End]:
    link = exchanged(stage, next(_private_ports))
    reject(stage.network.client, link.server_port, "host-unreachable", "sport")
    give_up_on_data(link.server, link.client)
    return link.ends()


def give_up_on_data(sender: Remote, peer: Remote) -> None:
    sender.call("set_user_timeout", "s", 300)
    sender.call("send", "s", 50)
    sender.call("await_end", "s")
    sender.call("close", "s")
    peer.call("reset", "s")


def server_user_timeout(stage: Stage) -> list[End]:
    link = exchanged(stage, next(_private_ports))
    stage.network.drop(link.server_port)
    give_up_on_data(link.server, link.client)
    return link.ends()


def client_keeps_alive(stage: Stage) -> list[End]:
    return kept_alive(stage, from_client)


def server_keeps_alive(stage: Stage) -> list[End]:
    return kept_alive(stage, from_server)


def kept_alive(stage: Stage, sides: Sides) -> list[End]:
    """Nothing is sent, and still it is noticed that the peer is gone."""
    link = exchanged(stage, next(_private_ports))
    asking, silent = sides(link)
    stage.network.drop(link.server_port)
    asking.call("keep_alive", "s")
    asking.call("await_end", "s")
    asking.call("close", "s")
    silent.call("reset", "s")
    return link.ends()


def fin_timeout(stage: Stage) -> list[End]:
    """The client's FIN is never acknowledged."""
    link = exchanged(stage, next(_private_ports))
    link.client.call("set_user_timeout", "s", 300)
    stage.network.drop(link.server_port)
    link.client.call("shutdown", "s")
    link.client.call("await_end", "s")
    link.client.call("close", "s")
    link.server.call("reset", "s")
    return link.ends()


def last_fin_timeout(stage: Stage) -> list[End]:
    """The second FIN is never acknowledged."""
    link = half_closed(stage, next(_private_ports))
    link.server.call("set_user_timeout", "s", 300)
    stage.network.drop(link.server_port)
    link.server.call("shutdown", "s")
    # A socket that is closed in both directions shows its user no end any more.
    local, remote = f"= :{link.server_port}", f"= :{link.client_port}"
    ss = ("ss", "-Htn", "sport", local, "and", "dport", remote)
    wait_until(lambda: not run_in(stage.network.server, *ss), "no timeout")
    link.server.call("close", "s")
    stage.network.undrop(link.server_port)
    link.client.call("close", "s")
    return link.ends()


def given_up(stage: Stage) -> list[End]:
    return [while_connecting(stage, lambda client, port: client.call("close", "s"))]


def destroyed_while_connecting(stage: Stage) -> list[End]:
    def destroy(client: Remote, port: int) -> None:
        run_in(stage.network.client, "ss", "-K", "-t", f"sport = :{port}")
        client.call("await_end", "s")
        client.call("close", "s")

    return [while_connecting(stage, destroy)]


def while_connecting(stage: Stage, end: Callable[[Remote, int], None]) -> End:
    port = next(_private_ports)
    stage.network.drop(port)
    client = stage.client()
    client_port = client.call("begin_connect", "s", stage.connect_host, port)
    end(client, client_port)
    return Link(stage, client, client, client_port, port).client_end(0, 0)


def destroyed_in_fin_wait2(stage: Stage) -> list[End]:
    link = half_closed(stage)
    destroy(stage.network.client, link.client_port, link.server_port)
    for side in (link.client, link.server):
        side.call("await_end", "s")
        side.call("close", "s")
    return link.ends()


def destroyed_in_close_wait(stage: Stage) -> list[End]:
    link = half_closed(stage)
    destroy(stage.network.server, link.server_port, link.client_port)
    for side in (link.server, link.client):
        side.call("await_end", "s")
        side.call("close", "s")
    return link.ends()


def half_closed(stage: Stage, port: int = 0) -> Link:
    """The client in FIN_WAIT2, the server in CLOSE_WAIT."""
    link = exchanged(stage, port)
    link.client.call("shutdown", "s")
    link.server.call("recv_eof", "s")
    link.client.call("await_acks", "s")
    return link


def destroy(host: Host, local: int, remote: int) -> None:
    run_in(host, "ss", "-K", "-t", f"sport = :{local} and dport = :{remote}")


def unread_in_close_wait(stage: Stage) -> list[End]:
    """The server closes, after the client has, without having read it all."""
    link = exchanged(stage)
    link.client.call("send", "s", 300)
    link.client.call("shutdown", "s")
    link.client.call("await_acks", "s")
    cut("close", link.server, link.client)
    return link.ends(400, 200)


def data_after_shutdown_of_both(stage: Stage) -> list[End]:
    """The client sends the reset; its kernel has the error of one received."""
    link = exchanged(stage)
    link.client.call("shutdown_both", "s")
    link.server.call("recv_eof", "s")
    link.client.call("await_acks", "s")
    link.server.call("send", "s", 50)
    for side in (link.server, link.client):
        side.call("await_end", "s")
        side.call("close", "s")
    return link.ends()


def loses(size: int, sides: Sides, stage: Stage) -> list[End]:
    """What one side has written by its reset, the other never gets."""
    link = exchanged(stage, next(_private_ports))
    sender, receiver = sides(link)
    stage.network.drop(link.server_port)
    sender.call("send", "s", size)
    sender.call("reset", "s")
    receiver.call("reset", "s")
    stage.network.undrop(link.server_port)
    return link.ends()


def loses_with_fin(stage: Stage) -> list[End]:
    link = exchanged(stage, next(_private_ports))
    stage.network.drop(link.server_port)
    link.client.call("send", "s", 700)
    link.client.call("shutdown", "s")
    link.client.call("reset", "s")
    link.server.call("reset", "s")
    stage.network.undrop(link.server_port)
    return link.ends()


def reads_in_part(stage: Stage) -> list[End]:
    link = exchanged(stage)
    link.server.call("send", "s", 300)
    link.settle()
    link.client.call("recv", "s", 120)
    cut("close", link.client, link.server)
    return link.ends(100, 500)


def reset_with_bytes_unread(stage: Stage) -> list[End]:
    link = exchanged(stage)
    link.client.call("send", "s", 300)
    link.settle()
    cut("reset", link.client, link.server)
    return link.ends(400, 200)


def unread_in_fin_wait2(stage: Stage) -> list[End]:
    """The client closes its half, then the rest without having read the answer."""
    link = half_closed(stage)
    link.server.call("send", "s", 300)
    link.server.call("await_acks", "s")
    cut("close", link.client, link.server)
    return link.ends(100, 500)


def client_finds_port_shut(stage: Stage) -> list[End]:
    """A firewall that comes up while they talk: what most `reject` rules answer."""
    link = exchanged(stage, next(_private_ports))
    reject(stage.network.server, link.server_port, "port-unreachable")
    give_up_on_data(link.client, link.server)
    return link.ends()


def data_after_close(stage: Stage) -> list[End]:
    """It comes while the client's FIN is on its way; the error is as above."""
    link = exchanged(stage, next(_private_ports))
    port = link.server_port
    deaf = (stage.network.server, "nft")
    run_in(*deaf, f"add element inet test dropped {{ {port} }}")
    link.client.call("close", "s")
    link.server.call("send", "s", 50)
    run_in(*deaf, f"delete element inet test dropped {{ {port} }}")
    link.server.call("await_end", "s")
    link.server.call("close", "s")
    return link.ends()


def next_to_a_kib(
    to_server: int, to_client: int, sides: Sides, stage: Stage
) -> list[End]:
    """Rows are in KiB: a byte more or less has to show in those as well."""
    link = establish(stage)
    transfer(link.client, link.server, to_server)
    transfer(link.server, link.client, to_client)
    link.settle()
    part(*sides(link))
    return link.ends(to_server, to_client)


def crossed_at_server(stage: Stage) -> list[End]:
    return crossed_at_one(stage, from_server)


def crossed_at_client(stage: Stage) -> list[End]:
    return crossed_at_one(stage, from_client)


def crossed_at_one(stage: Stage, sides: Sides) -> list[End]:
    """The first to close sees the other's FIN before its own is acknowledged.

    The other has the first one's FIN, which is sent again, behind that.
    """
    link = exchanged(stage, next(_private_ports))
    first, second = sides(link)
    network = stage.network
    deaf = network.client if second is link.client else network.server
    run_in(deaf, "nft", f"add element inet test dropped {{ {link.server_port} }}")
    first.call("shutdown", "s")
    second.call("shutdown", "s")
    first.call("recv_eof", "s")
    run_in(deaf, "nft", f"delete element inet test dropped {{ {link.server_port} }}")
    second.call("recv_eof", "s")
    for side in (first, second):
        side.call("await_acks", "s")
        side.call("close", "s")
    return link.ends()


ANSWERS = ("host-unreachable", "no-route", "admin-prohibited", "port-unreachable")
NEW: dict[str, Scenario] = (
    {f"rejected-{answer}": partial(rejected, answer) for answer in ANSWERS}
    | {
        # More than may be on its way at first.
        "client_loses": partial(loses, 20_000, from_client),
        "server_loses": partial(loses, 1, from_server),
        "kib_less_a_byte-client_first": partial(next_to_a_kib, 1023, 1024, from_client),
        "kib_less_a_byte-server_first": partial(next_to_a_kib, 1023, 1024, from_server),
        "kib-client_first": partial(next_to_a_kib, 1024, 1023, from_client),
        "kib-server_first": partial(next_to_a_kib, 1024, 1023, from_server),
    }
    | {
        scenario.__name__: scenario
        for scenario in (
            no_neighbour,
            client_cut_off,
            server_cut_off,
            server_user_timeout,
            client_keeps_alive,
            server_keeps_alive,
            fin_timeout,
            last_fin_timeout,
            given_up,
            destroyed_while_connecting,
            destroyed_in_fin_wait2,
            destroyed_in_close_wait,
            unread_in_close_wait,
            data_after_shutdown_of_both,
            loses_with_fin,
            reads_in_part,
            reset_with_bytes_unread,
            unread_in_fin_wait2,
            client_finds_port_shut,
            data_after_close,
            crossed_at_server,
            crossed_at_client,
        )
    }
)
SCENARIO: dict[str, Scenario] = {
    **SCENARIOS,
    **{scenario.__name__: scenario for scenario in MORE},
    **NEW,
}
# To be forked changes nothing that to be passed on does not.
ALL = [name for name in SCENARIO if "-forked-" not in name]

# ---- what is to be told of them ----------------------------------------------


class Ending(NamedTuple):
    end: str
    first: str | None = None
    errno: str | None = None


CLOSED_FIRST = Ending("closed", "local")
CLOSED_SECOND = Ending("closed", "remote")
CLOSED_BOTH = Ending("closed", "both")
RESETS = Ending("reset-by-us", "local")
IS_RESET = Ending("reset-by-peer", "remote", "ECONNRESET")
REFUSED = Ending("refused", None, "ECONNREFUSED")
NO_HOST = Ending("unreachable", None, "EHOSTUNREACH")
NO_NETWORK = Ending("unreachable", None, "ENETUNREACH")
TIMEOUT = Ending("timeout", None, "ETIMEDOUT")
GIVEN_UP = Ending("given-up")
DESTROYED = Ending("destroyed", None, "ECONNABORTED")

CLIENT_FIRST = (CLOSED_FIRST, CLOSED_SECOND)
SERVER_FIRST = (CLOSED_SECOND, CLOSED_FIRST)
CLIENT_RESETS = (RESETS, IS_RESET)
SERVER_RESETS = (IS_RESET, RESETS)

# Of the holder and its peer.
BY_ENDING = {
    "holder_closes": (CLOSED_FIRST, CLOSED_SECOND),
    "peer_closes": (CLOSED_SECOND, CLOSED_FIRST),
    "holder_resets": (RESETS, IS_RESET),
    "peer_resets": (IS_RESET, RESETS),
    "peer_resets_held": (IS_RESET, RESETS),
    "destroyed": (DESTROYED, IS_RESET),
}
# Of the client and the server, where there is one.
TOLD: dict[str, tuple[Ending, ...]] = {
    f"{side}-{handing.__name__}-{ending.__name__}": BY_ENDING[ending.__name__][::order]
    for side, order in (("client_holds", 1), ("server_holds", -1))
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
    "late_data_refused": (CLOSED_FIRST, Ending("reset-by-peer", "remote", "EPIPE")),
    "retransmitted": CLIENT_FIRST,
    "user_timeout": (TIMEOUT, RESETS),
    "refused": (REFUSED,),
    "timed_out": (TIMEOUT,),
    "forked_before_accept": CLIENT_RESETS,
    "thread_serves": SERVER_FIRST,
    "thread_connects": CLIENT_FIRST,
    "listener_closes": SERVER_RESETS,
    "listener_killed": SERVER_RESETS,
    "large": CLIENT_FIRST,
    "many_small": SERVER_FIRST,
    "reset_in_close_wait": (
        Ending("reset-by-peer", "local", "ECONNRESET"),
        Ending("reset-by-us", "remote"),
    ),
    "reset_in_fin_wait2": (
        Ending("reset-by-us", "local"),
        Ending("reset-by-peer", "remote", "EPIPE"),
    ),
    "reset_by_peer_in_last_ack": (
        Ending("reset-by-us", "local"),
        Ending("reset-by-peer", "remote", "ECONNRESET"),
    ),
    "reset_in_fin_wait1": (RESETS, RESETS),
    "reset_by_peer_in_fin_wait1": (
        Ending("reset-by-peer", "local", "ECONNRESET"),
        RESETS,
    ),
    "reset_in_closing": (Ending("reset-by-peer", "local", "ECONNRESET"), CLOSED_BOTH),
    "killed_while_connecting": (GIVEN_UP,),
    "rejected-host-unreachable": (NO_HOST,),
    "rejected-no-route": (NO_NETWORK,),
    "rejected-port-unreachable": (REFUSED,),
    "no_neighbour": (NO_HOST,),
    "client_cut_off": (NO_HOST, RESETS),
    "server_cut_off": (RESETS, NO_HOST),
    "server_user_timeout": (RESETS, TIMEOUT),
    "client_keeps_alive": (TIMEOUT, RESETS),
    "server_keeps_alive": (RESETS, TIMEOUT),
    "fin_timeout": (Ending("timeout", "local", "ETIMEDOUT"), RESETS),
    "last_fin_timeout": (CLOSED_FIRST, Ending("timeout", "remote", "ETIMEDOUT")),
    "given_up": (GIVEN_UP,),
    "destroyed_while_connecting": (DESTROYED,),
    "destroyed_in_fin_wait2": (
        Ending("destroyed", "local", "ECONNABORTED"),
        Ending("reset-by-peer", "remote", "EPIPE"),
    ),
    "destroyed_in_close_wait": (
        Ending("reset-by-peer", "local", "ECONNRESET"),
        Ending("destroyed", "remote", "ECONNABORTED"),
    ),
    "unread_in_close_wait": (
        Ending("reset-by-peer", "local", "ECONNRESET"),
        Ending("reset-by-us", "remote"),
    ),
    "data_after_shutdown_of_both": (
        Ending("reset-by-peer", "local", "ECONNRESET"),
        Ending("reset-by-peer", "remote", "EPIPE"),
    ),
    "client_loses": (RESETS, RESETS),
    "server_loses": (RESETS, RESETS),
    "loses_with_fin": (RESETS, RESETS),
    "reads_in_part": CLIENT_RESETS,
    "reset_with_bytes_unread": CLIENT_RESETS,
    "unread_in_fin_wait2": (
        Ending("reset-by-us", "local"),
        Ending("reset-by-peer", "remote", "EPIPE"),
    ),
    "client_finds_port_shut": (
        Ending("unreachable", None, "ECONNREFUSED"),
        RESETS,
    ),
    "data_after_close": (Ending("reset-by-peer", "local", "ECONNRESET"), IS_RESET),
    "kib_less_a_byte-client_first": CLIENT_FIRST,
    "kib_less_a_byte-server_first": SERVER_FIRST,
    "kib-client_first": CLIENT_FIRST,
    "kib-server_first": SERVER_FIRST,
    "crossed_at_server": (CLOSED_FIRST, CLOSED_BOTH),
    "crossed_at_client": (CLOSED_BOTH, CLOSED_FIRST),
}

# Where a firewall says that it does not want to, IPv6 has an error of its own.
IPV6_TOLD = {"rejected-admin-prohibited": (Ending("unreachable", None, "EACCES"),)}
TOLD["rejected-admin-prohibited"] = (NO_HOST,)

# Bytes lost and unread, of the client and the server; where there are any.
NONE = (0, 0)
LEFT = {
    "client_leaves_unread": ((0, 300), NONE),
    "server_leaves_unread": (NONE, (0, 300)),
    "late_data_refused": (NONE, (50, 0)),
    "user_timeout": ((50, 0), NONE),
    "listener_closes": (NONE, (0, 100)),
    "listener_killed": (NONE, (0, 100)),
    "client_cut_off": ((50, 0), NONE),
    "server_cut_off": (NONE, (50, 0)),
    "server_user_timeout": (NONE, (50, 0)),
    "unread_in_close_wait": (NONE, (0, 300)),
    "data_after_shutdown_of_both": (NONE, (50, 0)),
    "client_loses": ((20_000, 0), NONE),
    "server_loses": (NONE, (1, 0)),
    "loses_with_fin": ((700, 0), NONE),
    "unread_in_fin_wait2": ((0, 300), NONE),
    "client_finds_port_shut": ((50, 0), NONE),
    "data_after_close": (NONE, (50, 0)),
    "reads_in_part": ((0, 180), NONE),
    "reset_with_bytes_unread": (NONE, (0, 300)),
}

# ---- played once, under three tracers ----------------------------------------


class Traced(NamedTuple):
    ends: dict[str, list[End]]
    failures: list[str]
    stories: dict[Key, list[Story]]
    whole: dict[Key, list[Story]]  # by --style bt, which counts the whole life
    rows: dict[Key, list[dict[str, str]]]  # by -s, from the object without stories
    errors: list[str]
    statuses: list[int]

    def told(self, scenario: str, family: str) -> list[tuple[Story, bool]]:
        """One story for each end; and whether that is the client's."""
        found = []
        for end in self.ends[f"{scenario}-{family}"]:
            (story,) = self.stories.get(end.key, [])
            # A listener's port was chosen by its host, too: the address tells.
            found.append((story, is_client(end.laddr)))
        return found

    def all_stories(self) -> list[Story]:
        return [
            story
            for ends in self.ends.values()
            for end in ends
            for story in self.stories[end.key]
        ]


def is_client(address: str) -> bool:
    return address.endswith((".1", ":1"))


@pytest.fixture(scope="module")
@played_again_if_blind
def traced(network: Network) -> Iterator[Traced]:
    hurry(network)
    with ExitStack() as stack:
        tracers = [
            stack.enter_context(ours(*options))
            for options in (("--json",), ("--json", "--style", "bt"), ("-s",))
        ]
        stories, whole, rows = tracers
        ends: dict[str, list[End]] = {}
        failures = []
        # Most of a scenario is waiting for others, whatever the CPUs.
        with ThreadPoolExecutor(8) as pool:
            plays = {
                f"{name}-{family}": pool.submit(
                    play_more, SCENARIO[name], Stage(network, family)
                )
                for name in ALL
                for family in FAMILIES
            }
        for case, play in plays.items():
            if error := play.exception():
                failures.append(f"{case}: {error!r}")
            else:
                ends[case] = play.result()
        for tracer in (stories, whole):
            tracer.wait_for_ends(end for of in ends.values() for end in of)
        statuses = [tracer.stop() for tracer in tracers]
        yield Traced(
            ends,
            failures,
            stories_by_key(stories),
            stories_by_key(whole),
            rows_by_key(rows),
            [line for tracer in tracers for line in tracer.errors],
            statuses,
        )


def hurry(network: Network) -> None:
    """Let hosts answer as often, and find out as fast, as the scenarios need it."""
    for host in (network.client, network.server):
        for name, value in (
            ("ipv4/icmp_ratelimit", "0"),
            ("ipv6/icmp/ratelimit", "0"),
            ("ipv4/neigh/eth0/retrans_time_ms", "100"),
            ("ipv6/neigh/eth0/retrans_time_ms", "100"),
        ):
            run_in(host, "tee", f"/proc/sys/net/{name}", stdin=value)


def stories_by_key(tracer: Tracer) -> dict[Key, list[Story]]:
    found = defaultdict(list)
    for story in map(json.loads, tracer.lines):
        found[key_of(story)].append(story)
    return found


def key_of(story: Story) -> Key:
    return story["laddr"], story["lport"], story["raddr"], story["rport"]


def rows_by_key(tracer: Tracer) -> dict[Key, list[dict[str, str]]]:
    found = defaultdict(list)
    for row in csv.DictReader(tracer.lines):
        key = row["LADDR"], int(row["LPORT"]), row["RADDR"], int(row["RPORT"])
        found[key].append(row)
    return found


def test_all_was_played_and_nothing_lost(traced: Traced) -> None:
    assert {*TOLD, "closed_together"} == SCENARIO.keys()
    assert LEFT.keys() < {*ALL}
    assert not traced.failures
    assert traced.statuses == [0, 0, 0]
    assert not [line for line in traced.errors if "lost" in line or "drop" in line]


def ending_of(story: Story) -> Ending:
    return Ending(*(story[name] for name in Ending._fields))


CASES = [
    (scenario, side)
    for scenario in ALL
    if scenario != "closed_together"
    for side, _ in zip(("client", "server"), TOLD[scenario], strict=False)
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("scenario", "side"), CASES)
def test_beginning_and_end(
    traced: Traced, scenario: str, side: str, family: str
) -> None:
    endings = TOLD[scenario]
    if family == "ipv6":
        endings = IPV6_TOLD.get(scenario, endings)
    client = side == "client"
    told = [story for story, of in traced.told(scenario, family) if of == client]
    assert {(story["dir"], ending_of(story)) for story in told} == {
        ("out", endings[0]) if client else ("in", endings[1])
    }
    assert {story["born"] for story in told} == {"traced"}


@pytest.mark.parametrize("family", FAMILIES)
def test_closed_together(traced: Traced, family: str) -> None:
    """Which of them, or both, sees the FINs cross depends on which is sent again."""
    endings = {ending_of(story) for story, _ in traced.told("closed_together", family)}
    assert CLOSED_BOTH in endings <= {CLOSED_FIRST, CLOSED_BOTH}


def test_every_value_is_among_them(traced: Traced) -> None:
    stories = traced.all_stories()
    assert {story["end"] for story in stories if story["dir"] == "out"} == {
        *ENDS,
    } - {"open"}
    # What accepts does not begin before its peer has been there.
    assert {story["end"] for story in stories if story["dir"] == "in"} == {
        *ENDS,
    } - {"open", "refused", "given-up"}
    for direction in ("out", "in"):
        firsts = {story["first"] for story in stories if story["dir"] == direction}
        assert firsts == {*FIRSTS}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scenario", ALL)
def test_bytes_lost_and_unread(traced: Traced, scenario: str, family: str) -> None:
    of_client, of_server = LEFT.get(scenario, (NONE, NONE))
    for story, client in traced.told(scenario, family):
        left = story["lost_bytes"], story["unread_bytes"]
        assert left == (of_client if client else of_server), story


# ---- of all of them -----------------------------------------------------------


def us(milliseconds: float) -> int:
    return round(milliseconds * 1000)


def never_established(scenario: str) -> bool:
    return len(TOLD.get(scenario, ())) == 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scenario", ALL)
def test_phases_add_up(traced: Traced, scenario: str, family: str) -> None:
    """To the microsecond. From ESTABLISHED, or from the first state seen."""
    for end in traced.ends[f"{scenario}-{family}"]:
        (story,), (whole,) = traced.stories[end.key], traced.whole[end.key]
        for told in (story, whole):
            assert (told["connect_ms"] is None) == (told["dir"] == "in")
            assert min(told["connect_ms"] or 0, told["open_ms"], told["close_ms"]) >= 0
        connect, open_, close, life = (
            us(whole[name] or 0) for name in ("connect_ms", "open_ms", "close_ms", "ms")
        )
        assert connect + open_ + close == life
        connect, open_, close, span = (
            us(story[name] or 0) for name in ("connect_ms", "open_ms", "close_ms", "ms")
        )
        if never_established(scenario):
            assert connect == span > 0
            assert open_ == close == 0
        elif story["dir"] == "out":
            assert open_ + close == span
        else:
            # A child is made when the handshake is over but for its last word.
            assert open_ + close >= span
        # Nobody closes where nobody has closed first.
        assert not close or story["first"]


def test_time_of_failed_connects(traced: Traced) -> None:
    """The SYN is sent again after a second, and once more by newer kernels."""
    for family in FAMILIES:
        ((story, _),) = traced.told("timed_out", family)
        assert story["connect_ms"] > 1000
        assert story["retrans"] > 0
        assert (story["segs_out"], story["segs_in"]) == (story["retrans"] + 1, 0)
        assert story["retrans_bytes"] == 0
        assert story["rtt_ms"] is None
        assert story["min_rtt_ms"] is None


def test_rates(traced: Traced) -> None:
    known = 0
    for story in traced.all_stories():
        open_us = us(story["open_ms"])
        for name in ("tx", "rx"):
            amount, rate = story[f"{name}_bytes"], story[f"{name}_rate"]
            if open_us < 1000:
                assert rate is None
            else:
                assert rate == amount * 1_000_000 // open_us
                known += rate > 0
    assert known


def test_whose_they_are(traced: Traced, network: Network) -> None:
    inodes = {
        address: Path("/run/netns", host.namespace).stat().st_ino
        for host in (network.client, network.server)
        for address in (host.ipv4, host.ipv6)
    }
    assert len(set(inodes.values())) == 2
    parents = [nursery(host).pid for host in (network.client, network.server)]
    for story in traced.all_stories():
        assert story["netns"] == inodes[story["laddr"]]
        assert (story["uid"], story["user"]) == (0, "root"), story
        # Those that were forked have a parent of their own.
        child = story["comm"].endswith("-child")
        assert (story["ppid"] in parents) != child, story


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scenario", ALL)
def test_rows_agree_with_stories(traced: Traced, scenario: str, family: str) -> None:
    """They are by different BPF objects, see _shown() in cli/tcplife.py."""
    for end in traced.ends[f"{scenario}-{family}"]:
        (story,), (row,) = traced.stories[end.key], traced.rows[end.key]
        assert (row["PID"], row["COMM"]) == (str(story["pid"]), story["comm"])
        assert row["IP"] == str(story["ip"])
        kib = [int(row[name]) for name in ("TX_KB", "RX_KB")]
        assert kib == [story["tx_bytes"] >> 10, story["rx_bytes"] >> 10]


# ---- sessions that are looked at from within -----------------------------------


@pytest.fixture
def stage(network: Network, request: pytest.FixtureRequest) -> Iterator[Stage]:
    made = Stage(network, getattr(request, "param", "ipv4"))
    yield made
    made.close()


def told_of(tracer: Tracer, *ends: End) -> list[Story]:
    assert tracer.wait_for_ends(ends)
    stories = stories_by_key(tracer)
    return [story for end in ends for story in stories[end.key]]


@pytest.mark.parametrize("stage", FAMILIES, indirect=True)
def test_counters_are_the_sockets(stage: Stage) -> None:
    """A reset is sent when all is counted, so that nothing else happens before."""
    client, server = stage.client(), stage.server()
    with ours("--json") as tracer:
        server_port = server.call("listen", "l", stage.listen_host)
        server.call("set_mss", "l", 700)
        client_port = client.call("connect", "s", stage.connect_host, server_port)
        server.call("accept", "l", "s")
        server.call("set_congestion", "s", "reno")
        client.call("set_congestion", "s", "cubic")
        link = Link(stage, client, server, client_port, server_port)
        for size in (1, 1000, 20_000):
            client.call("send", "s", size)
            server.call("recv", "s", size)
        link.exchange()
        infos = [side.call("info", "s") for side in (client, server)]
        cut("reset", client, server)
        stories = told_of(tracer, *link.ends(21_101, 200))
    infos[1]["segs_in"] += 1  # the reset
    assert [info["congestion"] for info in infos] == ["cubic", "reno"]
    assert 0 < infos[0]["snd_mss"] <= 700
    assert min(info["segs_in"] for info in infos) > 4
    for story, info in zip(stories, infos, strict=True):
        assert story["cc"] == info["congestion"]
        assert story["mss"] == info["snd_mss"]
        assert (story["segs_in"], story["segs_out"]) == (
            info["segs_in"],
            info["segs_out"],
        )
        assert us(story["rtt_ms"]) == info["rtt"]
        assert us(story["min_rtt_ms"]) == info["min_rtt"]
        assert story["retrans"] == info["total_retrans"]
        assert story["retrans_bytes"] == info["bytes_retrans"]
    assert stories[0]["segs_out"] != stories[0]["segs_in"]


@pytest.mark.parametrize("stage", FAMILIES, indirect=True)
def test_phases_are_as_long_as_they_take(stage: Stage) -> None:
    """Bounds that hold however slow the machine is: both clocks are the same one."""

    def now() -> float:
        return time.monotonic() * 1000

    with ours("--json") as tracer:
        began = now()
        link = exchanged(stage)
        time.sleep(0.05)
        before_fin = now()
        link.client.call("shutdown", "s")
        after_fin = now()
        link.server.call("recv_eof", "s")
        time.sleep(0.07)
        link.server.call("close", "s")
        link.client.call("recv_eof", "s")
        ended = now()
        link.client.call("close", "s")
        client, server = told_of(tracer, *link.ends())
    for story in (client, server):
        assert 50 <= story["open_ms"] <= after_fin - began
        assert 70 <= story["close_ms"] <= ended - before_fin
    assert 0 < client["connect_ms"] <= before_fin - 50 - began


# ---- under other users ----------------------------------------------------------

NOBODY = pwd.getpwnam("nobody").pw_uid
NAMELESS = 4_000_000_000


def acts(client: Remote, server: Remote) -> None:
    part(client, server)


def is_closed_on(client: Remote, server: Remote) -> None:
    part(server, client)


def is_reset_and_closes(client: Remote, server: Remote) -> None:
    cut("reset", server, client)


def is_reset_and_holds(client: Remote, server: Remote) -> None:
    server.call("reset", "s")
    client.call("await_end", "s")


def is_killed(client: Remote, server: Remote) -> None:
    client.kill()
    server.call("recv_eof", "s")
    server.call("close", "s")


@pytest.mark.parametrize(
    ("ending", "uid", "user"),
    [
        (acts, NOBODY, "nobody"),
        (acts, NAMELESS, str(NAMELESS)),
        (is_closed_on, NOBODY, "nobody"),
        (is_reset_and_closes, NOBODY, "nobody"),
        (is_reset_and_holds, NOBODY, "nobody"),
        (is_killed, NOBODY, "nobody"),
    ],
)
def test_user(
    stage: Stage,
    ending: Callable[[Remote, Remote], None],
    uid: int,
    user: str,
) -> None:
    with ours("--json") as tracer:
        client, server = stage.client(), stage.server()
        client.call("become", uid)
        server_port = server.call("listen", "l", stage.listen_host)
        client_port = client.call("connect", "s", stage.connect_host, server_port)
        server.call("accept", "l", "s")
        link = Link(stage, client, server, client_port, server_port)
        link.exchange()
        ending(client, server)
        stories = told_of(tracer, *link.ends())
    users = [(story["uid"], story["user"]) for story in stories]
    assert users == [(uid, user), (0, "root")]


def test_user_to_whom_it_was_passed(stage: Stage) -> None:
    """The owner is not who opened it."""
    with ours("--json") as tracer:
        link = exchanged(stage)
        giver = link.client

        def nobody() -> Remote:
            taker = stage.client()
            taker.call("become", NOBODY)
            return taker

        link.client = passed(giver, nobody)
        cut("reset", link.server, link.client)
        (story,) = told_of(tracer, link.client_end())
    assert (story["pid"], story["uid"]) == (link.client.pid, NOBODY)
