"""Sessions to trace, each with the rows that it must leave behind.

A scenario plays one kind of session on a stage and returns its ends: whom each
belongs to and how many bytes it carried. Before anything that could lose data (a
reset, a kill) both sides have seen their bytes acknowledged, so that the counts
are certain.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from .netns import Host, Network, run_in
from .remote import Remote

FAMILIES = ("ipv4", "ipv6", "mapped")
LARGE = 12 << 20

Key = tuple[str, int, str, int]


class End(NamedTuple):
    """What one end of a session must be reported as."""

    laddr: str
    lport: int
    raddr: str
    rport: int
    pid: int
    comm: str
    tx_bytes: int
    rx_bytes: int

    @property
    def key(self) -> Key:
        return self[:4]


_number = itertools.count(1)
# Ports for the firewall to drop, and to find closed: outside the ephemeral range,
# so that no other scenario is given them.
_private_ports = itertools.count(2000)


class Stage:
    """The hosts, seen in one address family, and the processes of a scenario."""

    def __init__(self, network: Network, family: str) -> None:
        self.network = network
        self.family = family
        self.ipv6 = family == "ipv6"
        # Set by a scenario whose rows must come while its sockets are held.
        self.held = False
        self._remotes: list[Remote] = []

    def address(self, host: Host) -> str:
        """The address as it is to be reported: v4-mapped counts as IPv4."""
        return host.ipv6 if self.ipv6 else host.ipv4

    @property
    def listen_host(self) -> str:
        return "::" if self.family == "mapped" else self.address(self.network.server)

    @property
    def connect_host(self) -> str:
        address = self.address(self.network.server)
        return f"::ffff:{address}" if self.family == "mapped" else address

    def client(self) -> Remote:
        return self._remote(self.network.client, "cli")

    def server(self) -> Remote:
        return self._remote(self.network.server, "srv")

    def _remote(self, host: Host, role: str) -> Remote:
        remote = Remote(host, f"{role}-{next(_number)}")
        self._remotes.append(remote)
        return remote

    def close(self) -> None:
        while self._remotes:
            self._remotes.pop().close()


@dataclass
class Link:
    """An established session. Either side's owner may change along the way."""

    stage: Stage
    client: Remote
    server: Remote
    client_port: int
    server_port: int

    def exchange(self) -> None:
        """100 bytes to the server, 200 to the client, all acknowledged."""
        transfer(self.client, self.server, 100)
        transfer(self.server, self.client, 200)
        self.settle()

    def settle(self) -> None:
        self.client.call("await_acks", "s")
        self.server.call("await_acks", "s")

    def client_end(self, tx_bytes: int = 100, rx_bytes: int = 200) -> End:
        network = self.stage.network
        return End(
            self.stage.address(network.client),
            self.client_port,
            self.stage.address(network.server),
            self.server_port,
            self.client.pid,
            self.client.comm,
            tx_bytes,
            rx_bytes,
        )

    def server_end(self, tx_bytes: int = 200, rx_bytes: int = 100) -> End:
        network = self.stage.network
        return End(
            self.stage.address(network.server),
            self.server_port,
            self.stage.address(network.client),
            self.client_port,
            self.server.pid,
            self.server.comm,
            tx_bytes,
            rx_bytes,
        )

    def ends(self, to_server: int = 100, to_client: int = 200) -> list[End]:
        return [
            self.client_end(to_server, to_client),
            self.server_end(to_client, to_server),
        ]


def transfer(sender: Remote, receiver: Remote, size: int, times: int = 1) -> None:
    sender.order("send", "s", size, times)
    receiver.call("recv", "s", size * times)
    sender.answer()


def connect(stage: Stage, client: Remote, server: Remote, port: int = 0) -> Link:
    server_port = server.call("listen", "l", stage.listen_host, port)
    client_port = client.call("connect", "s", stage.connect_host, server_port)
    server.call("accept", "l", "s")
    server.call("close", "l")
    return Link(stage, client, server, client_port, server_port)


def establish(stage: Stage, port: int = 0) -> Link:
    return connect(stage, stage.client(), stage.server(), port)


def exchanged(stage: Stage, port: int = 0) -> Link:
    link = establish(stage, port)
    link.exchange()
    return link


def part(first: Remote, second: Remote) -> None:
    """Close on both sides, in this order, without a reset."""
    first.call("close", "s")
    second.call("recv_eof", "s")
    second.call("close", "s")


def cut(order: str, first: Remote, second: Remote) -> None:
    """End the session by an order that sends a reset, then close the other side."""
    first.call(order, "s")
    second.call("await_end", "s")
    second.call("close", "s")


# The matrix: who holds the session, how they came by it, how it ends.


def kept(holder: Remote, spawn: Callable[[], Remote]) -> Remote:
    """The process that opened or accepted the session keeps it."""
    return holder


def forked(holder: Remote, spawn: Callable[[], Remote]) -> Remote:
    """A child takes the session over, its parent closing its own copy."""
    holder.fork("-child")
    return holder


def passed(holder: Remote, spawn: Callable[[], Remote]) -> Remote:
    """An unrelated process is given the session over a UNIX socket."""
    taker = spawn()
    taker.call("hand_listen", taker.comm)
    holder.call("hand_over", "s", taker.comm)
    taker.call("hand_take", "s", taker.comm)
    return taker


def holder_closes(holder: Remote, peer: Remote, link: Link) -> None:
    part(holder, peer)


def peer_closes(holder: Remote, peer: Remote, link: Link) -> None:
    part(peer, holder)


def holder_resets(holder: Remote, peer: Remote, link: Link) -> None:
    cut("reset", holder, peer)


def peer_resets(holder: Remote, peer: Remote, link: Link) -> None:
    cut("reset", peer, holder)


def peer_resets_held(holder: Remote, peer: Remote, link: Link) -> None:
    """The holder neither reads nor closes: its row must come all the same."""
    peer.call("reset", "s")
    holder.call("await_end", "s")
    link.stage.held = True


def destroyed(holder: Remote, peer: Remote, link: Link) -> None:
    """`ss -K` ends it: neither side's owner is ss."""
    network = link.stage.network
    host, local, remote = (
        (network.client, link.client_port, link.server_port)
        if holder is link.client
        else (network.server, link.server_port, link.client_port)
    )
    run_in(host, "ss", "-K", "-t", f"sport = :{local} and dport = :{remote}")
    for side in (holder, peer):
        side.call("await_end", "s")
        side.call("close", "s")


HANDINGS = (kept, forked, passed)
ENDINGS = (
    holder_closes,
    peer_closes,
    holder_resets,
    peer_resets,
    peer_resets_held,
    destroyed,
)
Handing = Callable[[Remote, Callable[[], Remote]], Remote]
Ending = Callable[[Remote, Remote, Link], None]


def client_holds(handing: Handing, ending: Ending, stage: Stage) -> list[End]:
    link = exchanged(stage)
    link.client = handing(link.client, stage.client)
    ending(link.client, link.server, link)
    return link.ends()


def server_holds(handing: Handing, ending: Ending, stage: Stage) -> list[End]:
    link = exchanged(stage)
    link.server = handing(link.server, stage.server)
    ending(link.server, link.client, link)
    return link.ends()


# Other ways in which a session ends.


def no_bytes(stage: Stage) -> list[End]:
    link = establish(stage)
    part(link.client, link.server)
    return link.ends(0, 0)


def client_half_closes(stage: Stage) -> list[End]:
    """The client is done sending; the server answers at length, then closes."""
    link = exchanged(stage)
    link.client.call("shutdown", "s")
    link.server.call("recv_eof", "s")
    transfer(link.server, link.client, 5000)
    part(link.server, link.client)
    return link.ends(100, 5200)


def server_half_closes(stage: Stage) -> list[End]:
    link = exchanged(stage)
    link.server.call("shutdown", "s")
    link.client.call("recv_eof", "s")
    transfer(link.client, link.server, 5000)
    part(link.client, link.server)
    return link.ends(5100, 200)


def client_leaves_unread(stage: Stage) -> list[End]:
    """Closing with bytes unread sends a reset. They were received nonetheless."""
    link = exchanged(stage)
    link.server.call("send", "s", 300)
    link.settle()
    cut("close", link.client, link.server)
    return link.ends(100, 500)


def server_leaves_unread(stage: Stage) -> list[End]:
    link = exchanged(stage)
    link.client.call("send", "s", 300)
    link.settle()
    cut("close", link.server, link.client)
    return link.ends(400, 200)


def client_killed(stage: Stage) -> list[End]:
    link = exchanged(stage)
    link.client.kill()
    link.server.call("recv_eof", "s")
    link.server.call("close", "s")
    return link.ends()


def server_killed(stage: Stage) -> list[End]:
    link = exchanged(stage)
    link.server.kill()
    link.client.call("recv_eof", "s")
    link.client.call("close", "s")
    return link.ends()


def late_data_refused(stage: Stage) -> list[End]:
    """What the server sends after the client has closed is reset, not counted."""
    link = exchanged(stage)
    link.client.call("close", "s")
    link.server.call("recv_eof", "s")
    link.server.call("send", "s", 50)
    link.server.call("await_end", "s")
    link.server.call("close", "s")
    return link.ends()


def closed_together(stage: Stage) -> list[End]:
    """Both FINs are on their way at once (state CLOSING)."""
    link = exchanged(stage, next(_private_ports))
    stage.network.drop(link.server_port)
    link.client.call("shutdown", "s")
    link.server.call("shutdown", "s")
    stage.network.undrop(link.server_port)
    for side in (link.client, link.server):
        side.call("recv_eof", "s")
        side.call("await_acks", "s")
        side.call("close", "s")
    return link.ends()


def retransmitted(stage: Stage) -> list[End]:
    """Bytes that had to be sent twice count once."""
    link = exchanged(stage, next(_private_ports))
    stage.network.drop(link.server_port)
    link.client.call("send", "s", 500)
    link.server.call("send", "s", 600)
    stage.network.undrop(link.server_port)
    link.server.call("recv", "s", 500)
    link.client.call("recv", "s", 600)
    link.settle()
    part(link.client, link.server)
    return link.ends(600, 800)


def user_timeout(stage: Stage) -> list[End]:
    """The client gives up on bytes that are never acknowledged."""
    link = exchanged(stage, next(_private_ports))
    link.client.call("set_user_timeout", "s", 300)
    stage.network.drop(link.server_port)
    link.client.call("send", "s", 50)
    link.client.call("await_end", "s")
    link.client.call("close", "s")
    # An orderly close would now wait for minutes for its FIN's acknowledgement.
    link.server.call("reset", "s")
    return link.ends()


def refused(stage: Stage) -> list[End]:
    return [failed_connect(stage, next(_private_ports))]


def timed_out(stage: Stage) -> list[End]:
    server_port = next(_private_ports)
    stage.network.drop(server_port)
    return [failed_connect(stage, server_port)]


def failed_connect(stage: Stage, server_port: int) -> End:
    client = stage.client()
    try:
        client.call("connect", "s", stage.connect_host, server_port)
    except OSError:
        client_port = client.call("local_port", "s")
        client.call("close", "s")
    else:
        raise AssertionError("the connect should have failed")
    link = Link(stage, client, client, client_port, server_port)
    return link.client_end(0, 0)


def forked_before_accept(stage: Stage) -> list[End]:
    """A pre-forking server: the child owns what it accepts."""
    client, server = stage.client(), stage.server()
    server_port = server.call("listen", "l", stage.listen_host)
    client_port = client.call("connect", "s", stage.connect_host, server_port)
    server.fork("-child")
    server.call("accept", "l", "s")
    link = Link(stage, client, server, client_port, server_port)
    link.exchange()
    cut("reset", client, server)
    return link.ends()


def thread_serves(stage: Stage) -> list[End]:
    """A worker thread accepts and closes first: the process is named, not it."""
    client, server = stage.client(), stage.server()
    server_port = server.call("listen", "l", stage.listen_host)
    client_port = client.call("connect", "s", stage.connect_host, server_port)
    server.call("in_thread", "worker", "accept", "l", "s")
    link = Link(stage, client, server, client_port, server_port)
    link.exchange()
    server.call("in_thread", "worker", "close", "s")
    client.call("recv_eof", "s")
    client.call("close", "s")
    return link.ends()


def thread_connects(stage: Stage) -> list[End]:
    client, server = stage.client(), stage.server()
    server_port = server.call("listen", "l", stage.listen_host)
    client_port = client.call(
        "in_thread", "worker", "connect", "s", stage.connect_host, server_port
    )
    server.call("accept", "l", "s")
    link = Link(stage, client, server, client_port, server_port)
    link.exchange()
    client.call("in_thread", "worker", "close", "s")
    server.call("recv_eof", "s")
    server.call("close", "s")
    return link.ends()


def listener_closes(stage: Stage) -> list[End]:
    """Sessions that nobody had accepted end with their listener."""
    return unaccepted(stage, lambda server: server.call("close", "l"))


def listener_killed(stage: Stage) -> list[End]:
    return unaccepted(stage, Remote.kill)


def unaccepted(stage: Stage, end: Callable[[Remote], None]) -> list[End]:
    server = stage.server()
    server_port = server.call("listen", "l", stage.listen_host)
    links = []
    for _ in range(3):
        client = stage.client()
        client_port = client.call("connect", "s", stage.connect_host, server_port)
        client.call("send", "s", 100)
        client.call("await_acks", "s")
        links.append(Link(stage, client, server, client_port, server_port))
    end(server)
    for link in links:
        link.client.call("await_end", "s")
        link.client.call("close", "s")
    return [end for link in links for end in link.ends(100, 0)]


def large(stage: Stage) -> list[End]:
    link = establish(stage)
    transfer(link.client, link.server, LARGE)
    transfer(link.server, link.client, LARGE)
    part(link.client, link.server)
    return link.ends(LARGE, LARGE)


def many_small(stage: Stage) -> list[End]:
    link = establish(stage)
    transfer(link.client, link.server, 3, times=1000)
    transfer(link.server, link.client, 7, times=1000)
    part(link.server, link.client)
    return link.ends(3000, 7000)


Scenario = Callable[[Stage], list[End]]

SCENARIOS: dict[str, Scenario] = {
    f"{side.__name__}-{handing.__name__}-{ending.__name__}": partial(
        side, handing, ending
    )
    for side in (client_holds, server_holds)
    for handing in HANDINGS
    for ending in ENDINGS
} | {
    scenario.__name__: scenario
    for scenario in (
        no_bytes,
        client_half_closes,
        server_half_closes,
        client_leaves_unread,
        server_leaves_unread,
        client_killed,
        server_killed,
        late_data_refused,
        closed_together,
        retransmitted,
        user_timeout,
        refused,
        timed_out,
        forked_before_accept,
        thread_serves,
        thread_connects,
        listener_closes,
        listener_killed,
        large,
        many_small,
    )
}


Plays = dict[tuple[str, str], Future[list[End]]]


@contextmanager
def play_all(
    network: Network,
    names: Iterable[str] = SCENARIOS,
    families: Iterable[str] = FAMILIES,
) -> Iterator[Plays]:
    """Play every scenario in every family, a few at a time, to the end.

    Inside the context, those that hold their sockets still do.
    """
    held: list[Stage] = []

    def play(name: str, family: str) -> list[End]:
        stage = Stage(network, family)
        try:
            return SCENARIOS[name](stage)
        finally:
            if stage.held:
                held.append(stage)
            else:
                stage.close()

    # Most of a scenario is waiting for others, whatever the CPUs.
    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        plays = {
            case: pool.submit(play, *case)
            for case in itertools.product(names, families)
        }
    try:
        yield plays
    finally:
        for stage in held:
            stage.close()


def all_ends(plays: Plays) -> list[End]:
    """The ends in those scenarios that could be played."""
    return [
        end for play in plays.values() if not play.exception() for end in play.result()
    ]
