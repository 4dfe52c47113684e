"""What -p, -L and -D take, and what becomes of it for the kernel."""

from __future__ import annotations

import random

import pytest

from tcplife.errors import UsageError
from tcplife.filters.parse import (
    PID_MAX,
    parse_pids,
    parse_ports,
    parse_size,
    parse_subnets,
)
from tcplife.kernel.source import _port_bits

BAD_PORTS = {
    "": "''",
    ",": "''",
    "80,": "''",
    "80,,443": "''",
    "65536": "'65536'",
    "-1": "'-1'",
    "+80": "'+80'",
    "80-": "'80-'",
    "-80": "'-80'",
    "1-2-3": "'1-2-3'",
    "80-65536": "'80-65536'",
    "8999-8000": "8999-8000",
    "443,no-such": "'no-such'",
    "0x50": "'0x50'",
    "8_0": "'8_0'",
    "80.0": "'80.0'",
    "80 443": "'80 443'",
    "80;443": "'80;443'",
    "\u0668\u0660": "'\u0668\u0660'",
    "\u00b2": "'\u00b2'",
    "9" * 5000: "999'",
}
BAD_PIDS = {
    "": "''",
    "0": "'0'",
    "-1": "'-1'",
    "+1": "'+1'",
    "1,0": "'0'",
    "1,": "''",
    "1-2": "'1-2'",
    "self": "'self'",
    "1.0": "'1.0'",
    "\u0661": "'\u0661'",
    str(PID_MAX + 1): f"'{PID_MAX + 1}'",
    "9" * 5000: "999'",
}


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("80", [(80, 80)]),
        ("0", [(0, 0)]),
        ("65535", [(65535, 65535)]),
        ("0-65535", [(0, 65535)]),
        ("80-80", [(80, 80)]),
        ("80,443,8000-8999", [(80, 80), (443, 443), (8000, 8999)]),
        (" 80 , 8000 - 8999 ", [(80, 80), (8000, 8999)]),
        ("443,80,443", [(443, 443), (80, 80), (443, 443)]),
        ("0080", [(80, 80)]),
    ],
)
def test_ports(text: str, ranges: list[tuple[int, int]]) -> None:
    assert parse_ports("-L", text) == ranges


@pytest.mark.parametrize(
    ("text", "pids"),
    [
        ("1", [1]),
        (str(PID_MAX), [PID_MAX]),
        ("181,182", [181, 182]),
        (" 181 , 182 ", [181, 182]),
    ],
)
def test_pids(text: str, pids: list[int]) -> None:
    assert parse_pids("-p", text) == pids


@pytest.mark.parametrize(("text", "item"), BAD_PORTS.items())
def test_bad_ports(text: str, item: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_ports("-D/--remoteport", text)
    told = str(raised.value)
    assert told.startswith(f"-D/--remoteport {text}: ")
    assert item in told.removeprefix(f"-D/--remoteport {text}: ")


@pytest.mark.parametrize(("text", "item"), BAD_PIDS.items())
def test_bad_pids(text: str, item: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_pids("-p/--pid", text)
    told = str(raised.value)
    assert told.startswith(f"-p/--pid {text}: ")
    assert item in told.removeprefix(f"-p/--pid {text}: ")


def test_a_turned_range_is_turned_back() -> None:
    with pytest.raises(UsageError, match=r"did you mean 8000-8999\?"):
        parse_ports("-L", "8999-8000")


def test_port_bits_are_the_ports_asked_for() -> None:
    choose = random.Random(65536)
    for _ in range(50):
        wanted = set()
        items = []
        for _ in range(choose.randrange(1, 20)):
            low = choose.randrange(65536)
            high = min(65535, low + choose.choice([0, 0, 0, 1, 63, 64, 1000, 65535]))
            wanted |= set(range(low, high + 1))
            items.append(f"{low}-{high}" if high > low else f"{low}")
        assert ports_of(_port_bits(parse_ports("-L", ",".join(items)))) == wanted


def test_port_bits_of_all_and_of_none() -> None:
    assert _port_bits([]) == [0] * 1024
    assert _port_bits([(0, 65535)]) == [(1 << 64) - 1] * 1024


def ports_of(words: list[int]) -> set[int]:
    """As has_port() in the BPF program reads them."""
    assert len(words) == 1024
    return {port for port in range(65536) if words[port >> 6] >> (port & 63) & 1}


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("https", [(443, 443)]),
        ("80,https,8000-8999", [(80, 80), (443, 443), (8000, 8999)]),
        ("http-alt", [(8080, 8080)]),
    ],
)
def test_services_are_ports(text: str, ports: list[tuple[int, int]]) -> None:
    assert parse_ports("-D", text) == ports


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4096", 4096), ("10k", 10240), ("1.5M", 1572864), ("2G", 2 << 30)],
)
def test_sizes(text: str, size: float) -> None:
    assert parse_size("--min-bytes", text) == size


def test_a_zone_is_left_out_of_a_link_local_address() -> None:
    [(packed, bits)] = parse_subnets("--laddr", "fe80::1%eth0")
    assert (packed.hex(), bits) == (f"fe80{'0' * 27}1", 128)
    [(_, bits)] = parse_subnets("--laddr", "fe80::%eth0/64")
    assert bits == 64


@pytest.mark.parametrize("text", ["10.0.0.1%eth0", "2001:db8::1%eth0", "fe80::1%"])
def test_a_zone_elsewhere_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="neither an address nor a subnet"):
        parse_subnets("--laddr", text)
