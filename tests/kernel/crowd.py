"""100,000 sessions open at once, between a few processes."""

from __future__ import annotations

import os
from contextlib import ExitStack

from .netns import Network
from .scenarios import Key, Stage

# No address has ports enough for all sessions, and a process may have too few
# descriptors (a hard limit of 20,000 is seen in containers).
PAIRS = 10
PER_PAIR = 10_000
ENDS = 2 * PAIRS * PER_PAIR
BATCH = 1_000  # less than a listener's queue holds


class Crowd:
    """Clients and servers, the servers listening; `stack` ends them."""

    def __init__(self, network: Network, stack: ExitStack, port: int) -> None:
        stage = Stage(network, "ipv4")
        stack.callback(stage.close)
        # On the client's loopback device; addresses follow the PID, as in netns.
        prefix = f"127.{1 + (os.getpid() >> 8 & 127)}.{os.getpid() & 255}"
        self.addresses = [f"{prefix}.{n}" for n in range(1, PAIRS + 1)]
        self.clients = [stage.client() for _ in self.addresses]
        self.servers = [stage.client() for _ in self.addresses]
        self.pids = [remote.pid for remote in self.clients + self.servers]
        self._port = port
        for remote in self.clients + self.servers:
            remote.call("raise_files_limit", PER_PAIR + 100)
        for server, address in zip(self.servers, self.addresses, strict=True):
            server.call("listen", "l", address, port)

    def open(self) -> None:
        for _ in range(0, PER_PAIR, BATCH):
            for client, address in zip(self.clients, self.addresses, strict=True):
                client.order("connect_many", address, self._port, BATCH)
            for client in self.clients:
                client.answer()
            for server in self.servers:
                server.order("accept_many", "l", BATCH)
            for server in self.servers:
                server.answer()

    def has(self, key: Key) -> bool:
        return self._port in (key[1], key[3])

    def accepted(self, key: Key) -> bool:
        """Whether a session's end is the server's."""
        return key[1] == self._port

    def closes_first(self, key: Key) -> bool:
        """As close() has it."""
        address = key[0] if self.accepted(key) else key[2]
        clients_do = self.addresses.index(address) < PAIRS // 2
        return clients_do != self.accepted(key)

    def close(self) -> None:
        """Half of the clients close first, half of the servers do.

        One process at a time: this is about how many are open, not about how fast
        they close.
        """
        half = PAIRS // 2
        for remote in (
            *self.clients[:half],
            *self.servers[half:],
            *self.servers[:half],
            *self.clients[half:],
        ):
            remote.call("close_many")
