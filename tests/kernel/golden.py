"""Makes the recordings that the golden tests replay: sessions.tcplife, changes.tcplife.

sudo python -m tests.kernel.golden, from the root; then tests.golden.test_golden.
Sessions of many kinds are played between two network namespaces; both tools record.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from . import scenarios
from .netns import Network, network
from .scenarios import Stage
from .tracer import STATES, ours

# As it will stand in the header: told from the root of the repository.
HERE = Path("tests/golden")
PLAYED = (
    scenarios.no_bytes,
    scenarios.client_half_closes,
    scenarios.server_leaves_unread,
    scenarios.client_killed,
    scenarios.refused,
    scenarios.timed_out,
    scenarios.retransmitted,
    scenarios.user_timeout,
    scenarios.closed_together,
    scenarios.many_small,
    scenarios.listener_closes,
)
# To where the changes of state are recorded: others' are none of our business.
PORTS = range(2500, 2512)


def play(pair: Network) -> None:
    for family in ("ipv4", "ipv6"):
        for scenario in PLAYED:
            stage = Stage(pair, family)
            scenario(stage)
            stage.close()


def play_changes(pair: Network) -> None:
    for number, port in enumerate(PORTS):
        stage = Stage(pair, ("ipv4", "ipv6", "mapped")[number % 3])
        link = scenarios.exchanged(stage, port)
        if number % 4 == 0:
            scenarios.cut("reset", link.server, link.client)
        elif number % 4 == 1:
            scenarios.part(link.server, link.client)
        else:
            scenarios.part(link.client, link.server)
        stage.close()


def main() -> None:
    with network() as pair, ExitStack() as stack:
        subnets = ",".join(f"{host.ipv4},{host.ipv6}" for host in vars(pair).values())
        sessions = stack.enter_context(
            ours("--record", str(HERE / "sessions.tcplife"), "--laddr", subnets)
        )
        ports = f"{PORTS[0]}-{PORTS[-1]}"
        changes = stack.enter_context(
            ours("--record", str(HERE / "changes.tcplife"), "-D", ports, tool=STATES)
        )
        play(pair)
        play_changes(pair)
        time.sleep(1)  # for the owners that are searched for
        for tracer in (sessions, changes):
            if tracer.stop():
                raise SystemExit("\n".join(tracer.errors))


if __name__ == "__main__":
    main()
