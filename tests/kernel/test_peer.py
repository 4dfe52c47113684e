"""The same sessions under libbpf-tools' tcplife: proof that the tests can fail."""

from __future__ import annotations

from collections import Counter

import pytest

from .netns import Network
from .scenarios import End, all_ends, play_all
from .tracer import Row, peer


def test_the_peer_names_wrong_owners(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    with peer() as tracer, play_all(network) as plays:
        # It owes us no row, so waiting for all of them could be in vain.
        tracer.wait_for_ends(all_ends(plays), patience=2)
        rows = tracer.rows()
    ends = [(name, end) for (name, _), play in plays.items() for end in play.result()]
    total = Counter(name for name, _ in ends)
    right = Counter(name for name, end in ends if owner_right(end, rows.get(end.key)))
    with capsys.disabled():
        print("\nlibbpf-tools' tcplife, owners right of all:")
        for name in total:
            print(f"{right[name]:4} of {total[name]:3}  {name}")
        print(f"{right.total():4} of {total.total():3}  in all")
    assert right.total() < 0.9 * total.total()
    # It does see the simple ones: the scenarios really take place.
    assert right["client_holds-kept-holder_closes"] > 0


def owner_right(end: End, rows: list[Row] | None) -> bool:
    return [(row.pid, row.comm) for row in rows or ()] == [(end.pid, end.comm)]
