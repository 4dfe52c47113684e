"""A pair of network namespaces with a wire between that is as slow or bad as told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import netns
from .netns import Host, Network, run_in
from .remote import Remote

RELAY = (sys.executable, "-IS", str(Path(__file__).with_name("relay.py")))


@dataclass(frozen=True)
class Wire:
    network: Network
    relay: Remote

    def call(self, order: str, *arguments: float) -> Any:
        """Order the relay, see relay.py, which has done so on return."""
        return self.relay.call(order, *arguments)


@contextmanager
def wired() -> Iterator[Wire]:
    with netns.network("wire-") as network:
        # Its argument is the other end, where others' is a name of theirs.
        relay = Remote(network.client, network.server.namespace, RELAY)
        try:
            relay.call("held_back")  # Both ends are there by the answer.
            _lead_over(network.client, network.server)
            _lead_over(network.server, network.client)
            yield Wire(network, relay)
        finally:
            relay.close()


def _lead_over(host: Host, peer: Host) -> None:
    """What goes from a host to its peer, over the wire and no longer over eth0."""
    run_in(host, "ip", "link", "set", "wire0", "up")
    for local, remote in ((host.ipv4, peer.ipv4), (host.ipv6, peer.ipv6)):
        # Acknowledged at once, so that round trips take what the wire takes.
        route = f"route add {remote} dev wire0 src {local} quickack 1"
        run_in(host, "ip", *route.split())
