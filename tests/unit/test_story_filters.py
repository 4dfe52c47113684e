"""What the filters on a session's story take, and what they refuse and how."""

from __future__ import annotations

import gc
import os
import pwd
import sys
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from tcplife.cli import host, modes
from tcplife.cli import tcplife as command
from tcplife.columns import cgroup_paths
from tcplife.columns.values import ENDS
from tcplife.filters import parse
from tcplife.filters.filter import Filter

# By option: what the message says that helps, and values that it refuses.
AMOUNT = "from 0 to below 1e+15, as in "
SUBNETS = "give some like 10.0.0.0/8,192.0.2.1,2001:db8::/32"
AMOUNTS = ("", "-1", "many", "nan", "inf", "1e15", "0x10", "1,5", "5ms")
ADDRESSES = (
    *("", "host", "10.0.0.0/33", "fd00::/129", "10.0.0.256", "10.0.0", "10.0.0.1/-1"),
    *("10.0.0.1,", "10.0.0.1,,10.0.0.2", "10.0.0.0/8;fd00::/8"),
)
REFUSED: dict[str, tuple[str, tuple[str, ...]]] = {
    "--laddr": (SUBNETS, ADDRESSES),
    "--raddr": (SUBNETS, ADDRESSES),
    "--comm": ("give some like nginx,curl", ("", "curl,", ",curl", "a,,b")),
    "-u/--uid": (
        "give names or numbers",
        (
            *("", "root,", "nobody-of-that-name", "-1", "1.5", "0x0", "4294967296"),
            *("9" * 30, "root,no such user", "\u0661"),
        ),
    ),
    "--netns": (
        "give `self`, a PID, a path as in /proc/PID/ns/net, or a name of `ip netns`",
        ("no-such-netns", "4194305", "/run/netns/none", "/no/such", "self,no-such"),
    ),
    "--cgroup": ("lists them", ("/no/such", "no/such", "/proc/self/cgroup")),
    "--dir": ("there are in and out", ("", "up", "IN", "in,out", "open")),
    "--end": (
        "there are open, closed,",
        ("", "closed,", "never", "CLOSED", "reset", "closed;refused", "1"),
    ),
    "--min-ms": (AMOUNT, AMOUNTS),
    "--min-bytes": (AMOUNT, AMOUNTS),
    "--slower-connect": (AMOUNT, AMOUNTS),
}
# What is there, but is no network namespace; outside of all cgroups.
NO_SUCH = [
    *(("--netns", value) for value in ("/", "/etc/passwd", "self,/")),
    *(("--cgroup", value) for value in ("", "..", "my.slice/../..")),
]
Run = Callable[[str, str], int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The command, with one option, up to where it would begin to trace."""

    def traces(*_: object, **__: object) -> None:
        """What it would do with a value that is taken."""

    def run(option: str, value: str) -> int:
        monkeypatch.setattr(sys, "argv", ["tcplife", f"{option}={value}"])
        return command.main()

    monkeypatch.setattr(host, "trace", traces)
    yield run
    gc.enable()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        (option, value)
        for option, (_, values) in REFUSED.items()
        for value in (*values, "\x1b[31m\n")
        if (option, value) != ("--comm", "\x1b[31m\n")  # which may be one
    ],
)
def test_bad_value_is_told_in_one_line(
    option: str, value: str, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(option.split("/")[-1], value) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert err[:-1].isprintable()
    named = f"tcplife: {option} {value}"
    if named.isprintable():
        assert err.startswith(f"{named}: ")
    remedy, _ = REFUSED[option]
    assert remedy in err


@pytest.mark.parametrize(
    ("option", "value"),
    NO_SUCH,
)
def test_value_that_means_nothing_is_refused(
    option: str, value: str, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(option, value) == 2
    assert capfd.readouterr().err.startswith(f"tcplife: {option} {value}")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a cgroup2 file system, with one cgroup in it: hosts differ."""
    root = tmp_path / "cgroup"
    (root / "my.slice").mkdir(parents=True)
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"30 23 0:26 / {root} rw - cgroup2 cgroup2 rw\n")
    monkeypatch.setattr(cgroup_paths, "MOUNTS", str(mounts))
    return root


def filter_of(*arguments: str) -> Filter:
    return modes.filter_from(command._parser().parse_args(arguments))


def packed(address: str, bits: int) -> tuple[bytes, int]:
    found = ip_address(address)
    front = b"\0" * 10 + b"\xff\xff" if found.version == 4 else b""
    return front + found.packed, bits


@pytest.mark.parametrize("option", ["--laddr", "--raddr"])
def test_subnets(option: str) -> None:
    given = "10.1.2.3/8, 192.0.2.1 ,2001:db8::1/32,::1,0.0.0.0/0"
    wanted = filter_of(option, given)
    found = {"--laddr": wanted.local_subnets, "--raddr": wanted.remote_subnets}
    assert found.pop(option) == [
        packed("10.0.0.0", 104),
        packed("192.0.2.1", 128),
        packed("2001:db8::", 32),
        packed("::1", 128),
        packed("0.0.0.0", 96),
    ]
    assert list(*found.values()) == []


def test_comms_are_cut_as_the_kernel_cuts_them() -> None:
    assert filter_of("--comm", "nginx,fifteen-chars.x-and-more, a b").comms == [
        *(b"nginx", b"fifteen-chars.x", b" a b")
    ]
    # An argument that is no UTF-8, as Python has it
    assert filter_of("--comm", os.fsdecode(b"\xff\x1b")).comms == [b"\xff\x1b"]


@pytest.mark.parametrize("option", ["-u", "--uid"])
def test_users(option: str) -> None:
    me = pwd.getpwuid(0).pw_name
    wanted = filter_of(option, f"{me}, 33 ,4294967295,0033")
    assert wanted.uids == [0, 33, 4294967295, 33]


def test_users_numbers_are_not_cut() -> None:
    """`00000000001000` is 1000, if it is anything, and not 1."""
    assert filter_of("--uid", "00000000001000").uids == [1000]


def test_namespaces(tmp_path: Path) -> None:
    own = os.stat("/proc/self/ns/net").st_ino
    link = tmp_path / "mine"
    link.symlink_to("/proc/self/ns/net")
    given = f"self, {os.getpid()} ,/proc/self/ns/net,{link}"
    assert filter_of("--netns", given).namespaces == [own] * 4


@pytest.mark.parametrize("inner", ["", "/my.slice"])
def test_cgroup(root: Path, inner: str) -> None:
    for given in (f"{inner}/", f"/.{inner}", f"{root}{inner}", f"{root}{inner}/."):
        assert filter_of("--cgroup", given).cgroup == f"{root}{inner}"


def test_a_host_without_cgroups(
    root: Path, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    (root.parent / "mountinfo").write_text("")
    assert run("--cgroup", "/my.slice") == 2
    assert capfd.readouterr().err == (
        "tcplife: --cgroup /my.slice: this host has no cgroup2 file system\n"
    )


def test_directions_and_ends() -> None:
    assert [filter_of("--dir", name).direction for name in ("out", "in")] == [1, 2]
    assert filter_of("--end", "refused, open").ends == [ENDS.index("refused"), 0]
    failed = set(ENDS) - {"open", "closed"}
    assert {ENDS[number] for number in filter_of("--end", "failed").ends} == failed
    both = filter_of("--end", "failed,closed").ends
    assert {ENDS[number] for number in both} == failed | {"closed"}


def test_amounts() -> None:
    """What is shown is cut to microseconds: less than was asked for is not enough."""
    wanted = filter_of(
        "--min-ms", "1.5", "--min-bytes", "1e6", "--slower-connect", "0.0001"
    )
    assert (wanted.min_us, wanted.min_bytes, wanted.slower_connect_us) == (
        *(1_500, 1_000_000, 1),
    )


@pytest.mark.parametrize("shown", ["0.001", "1.005", "8.2", "999999.999"])
def test_what_is_shown_can_be_asked_for(shown: str) -> None:
    assert filter_of("--min-ms", shown).min_us == round(float(shown) * 1000)


def test_what_is_shown_can_be_asked_for_where_floats_are_above() -> None:
    """2.007 * 1000 is 2007.0000000000002."""
    assert filter_of("--min-ms", "2.007").min_us == 2_007
    assert filter_of("--slower-connect", "2.007").slower_connect_us == 2_007


def test_part_of_a_byte_is_a_byte() -> None:
    """1 byte is less than 1.5."""
    assert filter_of("--min-bytes", "1.5").min_bytes == 2


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        ("", False),
        ("-p 1 -L 80 -D 443 -4", False),
        ("--laddr ::1", True),
        ("--raddr ::1", True),
        ("--comm x", True),
        ("-u 0", True),
        ("--netns self", True),
        ("--cgroup /", True),
        ("--dir in", True),
        ("--end closed", True),
        ("--min-ms 1", True),
        ("--min-bytes 1", True),
        ("--slower-connect 1", True),
        ("--min-ms 0 --min-bytes 0", False),
    ],
)
def test_needs_story(arguments: str, needed: bool) -> None:
    assert filter_of(*arguments.split()).needs_story() is needed


@pytest.mark.parametrize("address", ["10.0.0.1", "::ffff:10.0.0.1"])
def test_mapped_addresses_are_ipv4(address: str) -> None:
    assert parse.parse_subnets("--laddr", address) == [packed("10.0.0.1", 128)]
