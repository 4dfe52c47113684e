"""Each filter selects what filtering the unfiltered output would."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from .blind import played_again_if_blind
from .netns import Network
from .remote import Remote
from .scenarios import (
    FAMILIES,
    End,
    Link,
    Stage,
    connect,
    cut,
    part,
    passed,
)
from .tracer import Row, Tracer, ours

PORTS = (443, 8000, 8999, 9000)

# Options and values; a PID is written as the name of the process in the cast.
Options = dict[str, str]
EACH: dict[str, list[str]] = {
    "-p": ["client-1", "server-1", "client-2,server-1"],
    "-L": ["8000", "8000-8999", "443,8500-9000", "10000-65535"],
    "-D": ["8000", "8000-8999", "443,8500-9000", "10000-65535"],
    "-4": [""],
    "-6": [""],
}
SINGLE: list[Options] = [
    {option: value} for option, values in EACH.items() for value in values
]
COMBINED: list[Options] = [
    {"-p": "client-1,server-1", "-L": "443,8000-8999"},
    {"-p": "client-1,server-1", "-D": "443,8000-8999"},
    {"-p": "client-1,server-1", "-4": ""},
    {"-p": "client-1,server-1", "-6": ""},
    {"-L": "8000-8999", "-D": "10000-65535"},
    {"-L": "443,8000-8999", "-4": ""},
    {"-L": "443,8000-8999", "-6": ""},
    {"-D": "443,8000-8999", "-4": ""},
    {"-D": "443,8000-8999", "-6": ""},
    {"-p": "server-2", "-L": "443,9000", "-D": "10000-65535", "-4": ""},
]
FILTERS = {
    " ".join(itertools.chain(*options.items())).rstrip(): options
    for options in SINGLE + COMBINED
}


class Traced(NamedTuple):
    pids: dict[str, int]
    unfiltered: list[Row]
    filtered: dict[str, list[Row]]


@pytest.fixture(scope="module")
@played_again_if_blind
def traced(network: Network) -> Iterator[Traced]:
    """All tracers watch the same sessions at the same time."""
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
            name: stack.enter_context(ours("--json", *arguments(options, pids)))
            for name, options in FILTERS.items()
        }
        everything = stack.enter_context(ours("--json"))
        ends = play(network, cast)
        assert everything.wait_for_ends(ends)
        hosts = {end.laddr for end in ends}
        yield Traced(
            pids,
            rows_of(everything, hosts),
            {name: rows_of(tracer, hosts) for name, tracer in tracers.items()},
        )


def rows_of(tracer: Tracer, hosts: set[str]) -> list[Row]:
    """All rows of ours: others may be using the network meanwhile."""
    assert tracer.stop() == 0
    return [row for rows in tracer.rows().values() for row in rows if row[0] in hosts]


def play(network: Network, cast: dict[str, Remote]) -> list[End]:
    """Sessions of several kinds, ports and families between all of the cast."""
    ends = []
    for family, port, n in itertools.product(FAMILIES, PORTS, (1, 2)):
        other_client, other_server = cast[f"client-{3 - n}"], cast[f"server-{3 - n}"]
        for ending in ENDINGS:
            client, server = cast[f"client-{n}"], cast[f"server-{n}"]
            link = connect(Stage(network, family), client, server, port)
            link.exchange()
            ending(link, other_client, other_server)
            ends += link.ends()
    return ends


def client_closes(link: Link, *_: Remote) -> None:
    part(link.client, link.server)


def server_closes(link: Link, *_: Remote) -> None:
    part(link.server, link.client)


def client_resets(link: Link, *_: Remote) -> None:
    cut("reset", link.client, link.server)


def client_passes_on(link: Link, other_client: Remote, _: Remote) -> None:
    """-p goes by who owns the session in the end."""
    link.client = passed(link.client, lambda: other_client)
    cut("reset", link.server, link.client)


def server_passes_on(link: Link, _: Remote, other_server: Remote) -> None:
    link.server = passed(link.server, lambda: other_server)
    part(link.server, link.client)


ENDINGS = (
    client_closes,
    server_closes,
    client_resets,
    client_passes_on,
    server_passes_on,
)


def arguments(options: Options, pids: dict[str, int]) -> list[str]:
    """The options as the tool takes them."""
    return [
        word
        for option, value in options.items()
        for word in (option, with_pids(value, pids))
        if word
    ]


def with_pids(value: str, pids: dict[str, int]) -> str:
    return ",".join(str(pids.get(word, word)) for word in value.split(","))


def selects(options: Options, row: Row, pids: dict[str, int]) -> bool:
    """What the filter says, put plainly."""
    fields = {"-p": row.pid, "-L": row.lport, "-D": row.rport}
    return all(
        row.ip == int(option[1])
        if option in ("-4", "-6")
        else any(
            int(first) <= (fields[option] or 0) <= int(last or first)
            for first, _, last in (
                word.partition("-") for word in with_pids(value, pids).split(",")
            )
        )
        for option, value in options.items()
    )


@pytest.mark.parametrize("name", FILTERS)
def test_filter_selects_what_filtering_would(traced: Traced, name: str) -> None:
    wanted = [
        row for row in traced.unfiltered if selects(FILTERS[name], row, traced.pids)
    ]
    # Or else the test could not fail.
    assert 0 < len(wanted) < len(traced.unfiltered)
    assert Counter(traced.filtered[name]) == Counter(wanted)
