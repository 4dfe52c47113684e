"""Histograms and summaries; by hand, and held against the figures of each value."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import tcplife
from tcplife.columns import values
from tcplife.columns.objects import compile_records
from tcplife.columns.sessions import SESSION_COLUMNS
from tcplife.errors import UsageError
from tcplife.records import abi
from tcplife.records.wire import STATE_CHANGE, STORY
from tcplife.summary import render
from tcplife.summary.add import change_adder, session_adder
from tcplife.summary.histogram import Histogram, bounds, bucket_of
from tcplife.summary.keys import KEYS, OTHER, QUANTITIES, parse_by
from tcplife.summary.summary import ORDERS, Group, Summary

from .records import CGROUPS, FRAME, Session, pack

LOOKUPS: dict[str, Any] = {"cgroup_path": CGROUPS.get, "host": lambda _: None}


def numbers(seed: int, count: int) -> list[int]:
    """Of all sizes, from 0 to 2 ** 63."""
    chance = random.Random(seed)
    return [chance.getrandbits(chance.randint(1, 63)) for _ in range(count)]


def histogram(found: Sequence[int]) -> Histogram:
    made = Histogram()
    for number in found:
        made.add(number)
    return made


def nearest_rank(found: Sequence[int], share: float) -> int:
    return sorted(found)[max(math.ceil(share * len(found)), 1) - 1]


EDGES = [
    n + d for n in (0, 1, 64, 127, 128, 129, 255, 256, 1 << 20, 1 << 62) for d in (0, 1)
]


@pytest.mark.parametrize("value", [*EDGES, (1 << 64) - 1, *numbers(1, 200)])
def test_a_value_lies_in_its_bucket(value: int) -> None:
    low, high = bounds(bucket_of(value))
    assert low <= value <= high
    assert histogram([value]).buckets == {bucket_of(value): 1}
    assert bucket_of(low) == bucket_of(high) == bucket_of(high + 1) - 1
    assert high - low <= value / 64
    assert bucket_of(value) < 1 << 16, "it is 16 bits wide in the kernel"


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99, 1])
def test_percentiles_are_within_1_percent(seed: int, share: float) -> None:
    found = numbers(seed, random.Random(seed).randint(1, 2000))
    exact = nearest_rank(found, share)
    told = histogram(found).quantile(share)
    assert told is not None
    assert abs(told - exact) <= 0.01 * exact


def test_no_values_have_no_percentile() -> None:
    assert Histogram().quantile(0.5) is None


def test_count_sum_and_greatest_are_exact() -> None:
    found = numbers(5, 1000)
    made = histogram(found)
    assert (made.count, made.total, made.most) == (1000, sum(found), max(found))


def test_octaves_are_as_of_bcc() -> None:
    made = histogram([0, 1, 2, 3, 4, 900])
    rows = list(made.octaves())
    assert rows[:3] == [(0, 1, 2), (2, 3, 2), (4, 7, 1)]
    assert rows[-1] == (512, 1023, 1)
    assert sum(count for _, _, count in rows) == 6


def some_sessions(seed: int, count: int) -> list[Session]:
    chance = random.Random(seed)
    owners = ((0, b""), (5, b"curl"), (6, b"nginx"), (7, b"nginx"))
    return [
        Session(
            *chance.choice(owners),
            raddr=chance.choice(("10.1.2.3", "10.1.2.9", "10.9.0.1", "2001:db8::7")),
            rport=chance.choice((80, 443)),
            dir=chance.choice((0, 1, 2)),
            end=chance.randrange(len(values.ENDS)),
            span_us=chance.getrandbits(20),
            connect_us=chance.choice((chance.getrandbits(12), (1 << 64) - 1)),
            tx_bytes=chance.getrandbits(16),
            rx_bytes=chance.getrandbits(24),
            srtt_us=chance.choice((0, 250)),
            retrans=chance.randrange(3),
            cgroup=chance.choice((1, 2)),
        )
        for _ in range(count)
    ]


def summarized(by: str, *parts: list[Session]) -> Summary:
    made = Summary(parse_by("--by", by))
    add = session_adder(STORY, made, "span_us", LOOKUPS)
    for part in parts:
        add(pack(*part, wire=STORY))
    return made


@pytest.mark.parametrize("by", ["comm,dir,port", "raddr", "subnet/16", "container,end"])
def test_merging_is_as_if_all_had_been_one(by: str) -> None:
    a, b, c = (some_sessions(seed, 100) for seed in range(3))
    whole = summarized(by, a, b, c)
    left, right = summarized(by, a), summarized(by, c)
    left.merge(summarized(by, b))
    left.merge(summarized(by, c))
    middle = summarized(by, b)
    middle.merge(summarized(by, a))
    right.merge(middle)
    assert left.groups == right.groups == whole.groups
    assert len(whole.groups) > 1


def test_what_is_grouped_otherwise_does_not_merge() -> None:
    with pytest.raises(ValueError, match="do not merge"):
        Summary(("comm",)).merge(Summary(("pid",)))


def test_sums_are_those_of_the_sessions() -> None:
    sessions = some_sessions(7, 500)
    total = summarized("comm", sessions).total()
    assert total.count == 500
    assert total.failed == sum(s.end > 1 for s in sessions)
    assert total.ends == {
        end: n
        for number, end in enumerate(values.ENDS)
        if (n := sum(s.end == number for s in sessions))
    }
    assert total.retrans_share == sum(s.retrans for s in sessions) / sum(
        s.segs_out for s in sessions
    )
    spans = [s.span_us for s in sessions]
    connects = [s.connect_us for s in sessions if s.connect_us < 1 << 63]
    assert total.quantities["ms"] == histogram(spans)
    assert total.quantities["connect"] == histogram(connects)
    assert total.quantities["tx"] == histogram([s.tx_bytes for s in sessions])
    assert total.quantities["rx"] == histogram([s.rx_bytes for s in sessions])
    assert total.quantities["rtt"].count == sum(s.srtt_us > 0 for s in sessions)


Key = Callable[[Session], object]


@pytest.mark.parametrize(
    ("by", "key"),
    [
        ("comm", lambda s: s.comm.decode() or None),
        ("pid", lambda s: s.pid or None),
        ("uid", lambda s: s.uid if s.pid else None),
        ("dir", lambda s: (None, "out", "in")[s.dir]),
        ("port", lambda s: (443 if s.rport > 80 else 80, s.rport, s.lport)[s.dir]),
        ("end", lambda s: values.ENDS[s.end]),
        ("container", lambda s: (None, None, "0123456789abcdef" * 4)[s.cgroup]),
        (
            "subnet/16",
            lambda s: {"10.1": "10.1.0.0/16", "10.9": "10.9.0.0/16"}.get(
                s.raddr[:4], "2001:db8::/64"
            ),
        ),
        ("subnet/64", lambda s: f"{s.raddr}/32" if "." in s.raddr else "2001:db8::/64"),
    ],
)
def test_keys(by: str, key: Key) -> None:
    sessions = some_sessions(3, 200)
    counts: dict[tuple[object, ...], int] = {}
    for session in sessions:
        counts[key(session),] = counts.get((key(session),), 0) + 1
    groups = summarized(by, sessions).groups
    assert {k: group.count for k, group in groups.items()} == counts


@pytest.mark.parametrize("by", [*KEYS, "comm,dir,port", "subnet/16", "subnet/64"])
def test_objects_add_up_as_records_do(by: str) -> None:
    """A Summary of the API's sessions is the same."""
    sessions = some_sessions(10, 200)
    records = summarized(by, sessions)
    made = compile_records(STORY, SESSION_COLUMNS, tcplife.Session, "span_us", LOOKUPS)(
        pack(*sessions, wire=STORY), 0
    )
    objects = Summary(records.by)
    for session in made:
        objects.add(session)
    assert objects.groups == records.groups


def test_it_is_kept_as_json() -> None:
    summary = summarized("comm,dir,subnet/16", some_sessions(11, 100))
    summary.seconds = 1.5
    summary.group(OTHER).count = 3
    again = Summary.from_json(summary.to_json())
    assert (again.by, again.seconds) == (summary.by, summary.seconds)
    assert again.groups == summary.groups


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"by": [], "seconds": 1}', "1"])
def test_no_summary(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (json's own is one as well)
        Summary.from_json(text)


def test_regrouped_is_as_if_grouped_so() -> None:
    sessions = some_sessions(4, 200)
    fine = summarized("comm,dir,port", sessions)
    assert fine.regrouped(("dir",)).groups == summarized("dir", sessions).groups


def test_top_folds_the_rest() -> None:
    summary = summarized("raddr", some_sessions(5, 300))
    summary.group(OTHER).count = 7
    top = summary.top(2)
    assert [key for key, _ in top][-1] == OTHER
    assert len(top) == 3
    assert sum(group.count for _, group in top) == 307
    assert top[0][1].count >= top[1][1].count
    assert [key for key, _ in summary.top(None)][-1] == OTHER


@pytest.mark.parametrize("value", [0, 127, 128, 409, 123_457, 10**12 + 1])
def test_of_one_value_all_percentiles_are_that(value: int) -> None:
    histogram = Histogram()
    histogram.add(value)
    for share in (0.01, 0.5, 0.9, 0.99, 1):
        assert histogram.quantile(share) == value == histogram.most


def test_the_greatest_is_exact_at_its_rank() -> None:
    histogram = Histogram()
    for value in (1000, 2001, 303_000):
        histogram.add(value)
    assert histogram.quantile(0.99) == 303_000
    # Where not all have a bucket, nobody knows whose rank it is.
    histogram.count += 1
    assert histogram.quantile(0.99) != 303_000


def test_there_are_never_more_groups_than_the_limit() -> None:
    """Added or merged, in any order; what has no room is counted all the same."""
    parts = [Summary(("port",), 3) for _ in range(4)]
    for number, part in enumerate(parts):
        for port in range(5):
            part.group((10 * number + port,)).count += 1
        assert len(part.groups) == 4
        assert part.others() == 2
    total = Summary(("port",), 3)
    for part in parts:
        total.merge(part)
    assert len(total.groups) == 4
    assert total.total().count == 20
    assert total.others() == 17


@pytest.mark.parametrize("order", ORDERS)
def test_orders_put_the_greatest_first(order: str) -> None:
    summary = summarized("raddr,dir", some_sessions(6, 300))
    ranks = [ORDERS[order](group) for _, group in summary.top(None, order)]
    assert ranks == sorted(ranks, reverse=True)
    assert len(set(ranks)) > 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "oldstate",
        "comm,comm",
        "subnet",
        "subnet/129",
        "subnet/x",
        "subnet/8,subnet/9",
    ],
)
def test_bad_groupings(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_by("--by", text)
    assert f"--by {text}: " in str(raised.value)


def state_record(first: int) -> bytes:
    fields = dict.fromkeys(STATE_CHANGE.fields, 0) | {"span_us": 1500, "first": first}
    body = b"".join(
        bytes((1, 4))
        if name == "states"
        else struct.pack("=" + code, fields[name])
        if not code.endswith("s")
        else bytes(struct.calcsize(code))
        for name, code in STATE_CHANGE.fields.items()
    )
    return bytes(FRAME.size) + body


def test_states() -> None:
    summary = Summary(("oldstate", "newstate"))
    # The second one's beginning was not seen: it has no time.
    records = memoryview(state_record(first=0) + state_record(first=1))
    change_adder(STATE_CHANGE, summary)(records)
    group = summary.groups["ESTABLISHED", "FIN_WAIT1"]
    assert group.count == 2
    assert group.quantities["ms"] == histogram([1500])


def test_the_kernel_has_the_same_quantities() -> None:
    names = ["life" if name == "ms" else name for name in QUANTITIES]
    expected = {f"QUANTITY_{name.upper()}": n for n, name in enumerate(names)}
    assert list(abi.QUANTITY.items()) == list(expected.items())


def test_the_kernel_groups_by_what_keys_are_made_of() -> None:
    fields = {field for key in KEYS.values() for field in key.fields}
    assert {f"BY_{field.upper()}" for field in fields} == set(abi.BY)
    assert sorted(abi.BY.values()) == [1 << n for n in range(len(abi.BY))]
    assert fields <= {name for name, _ in abi.SESSION_GROUP}


def test_table_lines_up() -> None:
    sessions = some_sessions(8, 300)
    summary = summarized("comm,dir,port", sessions)
    summary.seconds = 2.0
    lines = list(render.table(summary, render.SESSION_FIGURES, 3, "count"))
    assert len(lines) == 5
    assert lines[-1].startswith("(other)")
    ends = [len(line) for line in lines]
    assert len(set(ends)) == 1
    assert ends[0] <= 132
    counts = [int(line.split()[3]) for line in lines[1:4]]
    assert counts == sorted(counts, reverse=True)


def test_table_escapes_names() -> None:
    summary = Summary(("comm",))
    summary.group(("a\x1b[31m\n",)).count = 1
    assert "a\\x1b[31m\\n" in "".join(render.table(summary, (), None, "count"))


@pytest.mark.parametrize(("blocks", "mark"), [(False, "*"), (True, "█")])
def test_histograms(blocks: bool, mark: str) -> None:
    summary = Summary(("comm",))
    group = summary.group(("curl",))
    for value in [3] * 40 + [5] * 10:
        group.count += 1
        group.quantities["ms"].add(value)
    lines = list(render.histograms(summary, "ms", None, "count", blocks))
    assert lines[1] == "comm = curl"
    assert lines[2] == "     usecs               : count     distribution"
    assert lines[4] == f"         2 -> 3          : 40       |{mark * 40}|"
    assert lines[5] == f"         4 -> 7          : 10       |{(mark * 10).ljust(40)}|"


def test_json() -> None:
    summary = summarized("comm,dir", some_sessions(9, 100))
    summary.seconds = 4.0
    lines = render.json_lines(summary, 2, "count", "now", QUANTITIES)
    objects = [json.loads(line) for line in lines]
    assert [o["other"] for o in objects] == [False, False, True]
    assert sum(o["count"] for o in objects) == 100
    assert objects[0]["rate"] == objects[0]["count"] / 4
    assert sum(objects[0]["ends"].values()) == objects[0]["count"]
    assert sum(row[2] for row in objects[0]["ms"]["histogram"]) == objects[0]["count"]
    assert objects[-1]["comm"] is None


def test_each_key_has_a_width_and_a_meaning() -> None:
    for name, key in KEYS.items():
        assert key.meaning, name
        assert len(key.title) <= len(key.form % ""), name


def test_groups_compare() -> None:
    one, other = Group(), Group()
    assert one == other
    other.count = 1
    assert one != other
