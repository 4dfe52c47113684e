"""Hosts that are short of something: what still works, and what is said.

Each is made here: capabilities by setpriv(1), namespaces by unshare(1), the rest by
confine.py. Kernel lockdown, other kernels and other settings of
kernel.unprivileged_bpf_disabled take a machine of one's own.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tcplife.kernel.btf import KERNEL, PLACES

from .blind import played_again_if_blind
from .hosts import (
    NOBODY,
    SEARCH,
    TRACE,
    Copy,
    available_tiers,
    checked,
    children,
    confined,
    mask,
    minimum,
    refused,
    says,
    some_are_hidden,
    status,
)
from .netns import Network
from .scenarios import End, Key, Plays, Stage, all_ends, exchanged, part, play_all
from .test_sessions import end_of
from .tracer import OURS, STATES, Row, Tracer, ours, wait_until

TIERS = available_tiers()
OLDER = [tier for tier in TIERS if tier > 1]
BEST = TIERS[0]
# Without the kernel's own BTF.
WITHOUT_BTF = [tier for tier in TIERS if tier > 2]

# Both ways to know an owner, all ways to find one, and counts of bytes.
SCENARIOS = [
    "client_holds-kept-holder_closes",
    "client_holds-forked-peer_closes",
    "client_holds-kept-peer_resets_held",
    "client_holds-passed-peer_resets_held",
    "server_holds-kept-peer_resets",
    "server_holds-kept-peer_resets_held",
    "server_holds-forked-peer_resets_held",
    "server_holds-passed-peer_resets_held",
    "client_half_closes",
    "server_killed",
    "listener_closes",
    "many_small",
]
HELD = [name for name in SCENARIOS if name.endswith("held")]
FAMILIES = ("ipv4", "ipv6")

NO_BTF = ("--empty", str(Path(KERNEL).parent))
NO_TRACEFS = (
    *("--empty", "/sys/kernel/tracing"),
    *("--empty", "/sys/kernel/debug"),
)
CONTAINER = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    # Folders of pytest's own are for its user only.
    folder = Path("/tmp", f"tcplife-test-{os.getpid()}")
    folder.mkdir()
    try:
        yield Copy(folder)
    finally:
        subprocess.run(["rm", "-r", folder], check=True)


@pytest.fixture(scope="module")
def types(copy: Copy) -> str:
    """A copy of the kernel's BTF, in a file as BTFHub has it."""
    path = f"/tmp/tcplife-test-{os.getpid()}/types.btf"
    Path(path).write_bytes(Path(KERNEL).read_bytes())
    return path


# ---- the same sessions, on hosts that lack this or that -----------------------


class Host(NamedTuple):
    """How to run tcplife there; whether it may look for owners."""

    tier: int
    prefix: tuple[str, ...]
    options: tuple[str, ...] = ()
    searches: bool = True


class Traced(NamedTuple):
    rows: dict[Key, list[Row]]
    in_time: set[Key]  # reported while the held sockets were still held
    errors: list[str]
    status: int


def all_hosts(copy: Copy, types: str) -> dict[str, Host]:
    hosts: dict[str, Host] = {}
    for tier in TIERS:
        hosts |= {
            f"minimum-{tier}": Host(tier, copy.as_nobody(*minimum(tier))),
            f"user-{tier}": Host(tier, (), ("--user", "nobody")),
            f"no-tracefs-{tier}": Host(tier, confined(*NO_TRACEFS)),
            # The processes of other PID namespaces are not to be seen in it.
            f"container-{tier}": Host(tier, CONTAINER, searches=False),
        }
    for tier in OLDER:
        for less in SEARCH:
            capabilities = [name for name in minimum(tier) if name != less]
            hosts[f"no-{less}-{tier}"] = Host(
                tier, copy.as_nobody(*capabilities), searches=False
            )
    place = PLACES[0].format(os.uname().release)
    for tier in WITHOUT_BTF:
        hosts |= {
            f"btf-given-{tier}": Host(tier, confined(*NO_BTF), ("--btf", types)),
            f"btf-found-{tier}": Host(
                tier, confined(*NO_BTF, "--empty", "/var/lib", "--put", types, place)
            ),
        }
    return hosts


NAMES = [
    *(
        f"{name}-{tier}"
        for tier in TIERS
        for name in ("minimum", "user", "no-tracefs", "container")
    ),
    *(f"no-{less}-{tier}" for tier in OLDER for less in SEARCH),
    *(f"{name}-{tier}" for tier in WITHOUT_BTF for name in ("btf-given", "btf-found")),
]


@pytest.fixture(scope="module")
def hosts(copy: Copy, types: str) -> dict[str, Host]:
    return all_hosts(copy, types)


@contextmanager
def tracing(copy: Copy, host: Host, *options: str) -> Iterator[Tracer]:
    words = ["--json", "--tier", str(host.tier), *host.options, *options]
    with ours(*words, prefix=host.prefix, tool=copy.tool) as tracer:
        yield tracer


def stop(tracer: Tracer) -> int:
    """unshare(1) has a child, which is the tool."""
    for pid in children(tracer.process.pid) or [tracer.process.pid]:
        os.kill(pid, signal.SIGINT)
    return tracer.finish()


@pytest.fixture(scope="module")
@played_again_if_blind
def played(
    network: Network, copy: Copy, hosts: dict[str, Host]
) -> Iterator[tuple[Plays, dict[str, Traced]]]:
    """The sessions are played once, under all of the hosts' tracers."""
    pair = (network.client, network.server)
    mine = ",".join(address for host in pair for address in (host.ipv4, host.ipv6))
    with ExitStack() as stack:
        tracers = {
            name: stack.enter_context(tracing(copy, host, "--laddr", mine))
            for name, host in hosts.items()
        }
        with play_all(network, SCENARIOS, FAMILIES) as plays:
            ends = all_ends(plays)
            held = set(held_keys(plays))
            for name, tracer in tracers.items():
                waiting = [
                    end for end in ends if hosts[name].searches or end.key not in held
                ]
                tracer.wait_for_ends(waiting)
            in_time = {name: set(tracer.rows()) for name, tracer in tracers.items()}
            # While the sockets are still held.
            statuses = {name: stop(tracer) for name, tracer in tracers.items()}
        found = {
            name: Traced(tracer.rows(), in_time[name], tracer.errors, statuses[name])
            for name, tracer in tracers.items()
        }
        yield plays, found


def held_keys(plays: Plays) -> Iterator[Key]:
    """The ends whose sockets stay open when their sessions are over."""
    for (name, _), play in plays.items():
        if name in HELD:
            client, server = play.result()
            yield (client if name.startswith("client") else server).key


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_right(
    name: str, played: tuple[Plays, dict[str, Traced]], hosts: dict[str, Host]
) -> None:
    plays, found = played
    traced = found[name]
    assert traced.status == 0
    held = set(held_keys(plays))
    ends = [end for play in plays.values() for end in play.result()]
    assert len(held) == len(HELD) * len(FAMILIES)
    searched = held if hosts[name].searches else set()
    for end in ends:
        (row,) = traced.rows.get(end.key, [None])
        assert row, end
        if end.key in held - searched:
            # Nobody is named but who was seen to act on the socket.
            assert bytes_of(end_of(row)) == bytes_of(end)
        else:
            assert end_of(row) == end
    everything = {end.key for end in ends}
    assert everything - traced.in_time == held - searched
    assert not [line for line in traced.errors if "lost" in line]
    told = [line for line in traced.errors if "could not be looked for" in line]
    assert len(told) == (0 if hosts[name].searches else 1), told


def bytes_of(end: End) -> tuple[object, ...]:
    return (*end.key, end.tx_bytes, end.rx_bytes)


def test_all_hosts_were_tried(hosts: dict[str, Host]) -> None:
    assert set(hosts) == set(NAMES)
    assert len(TIERS) >= 2, "two tiers, at least, on any kernel with BTF"


# ---- what the process keeps ---------------------------------------------------


def needed(tool: str, tier: int) -> int:
    """What is used once tracing has begun."""
    if tool == "tcpstates":
        # It reads what is mapped; where that is not to be had, by bpf(2).
        return mask("bpf") if tier > 2 else 0
    return mask(*TRACE) if tier == 1 else mask("bpf", *SEARCH)


@pytest.mark.parametrize("user", ["root", "nobody"])
@pytest.mark.parametrize("tool", ["tcplife", "tcpstates"])
@pytest.mark.parametrize("tier", TIERS)
def test_only_what_is_needed_is_kept(
    tier: int, tool: str, user: str, copy: Copy
) -> None:
    argv = copy.tool if tool == "tcplife" else copy.states
    mine = ("-p", str(os.getpid()), "--json", "--tier", str(tier))
    with ours(*mine, "--user", user, tool=argv) as tracer:
        found = status(tracer.process.pid)
        for name in ("CapEff", "CapPrm"):
            assert int(found[name], 16) == needed(tool, tier), name
        for name in ("CapInh", "CapAmb"):
            assert int(found[name], 16) == 0, name
        assert found["NoNewPrivs"] == "1"
        uid, gid = (0, 0) if user == "root" else (NOBODY.pw_uid, NOBODY.pw_gid)
        assert found["Uid"].split() == [str(uid)] * 4
        assert found["Gid"].split() == [str(gid)] * 4
        if user != "root":
            assert found["Groups"].split() == [str(gid)]
        # Without them it still sees, and ends well.
        play_here()
        count = 2 if tool == "tcplife" else 8
        assert tracer.wait_for(lambda: len(tracer.lines) >= count)
        assert tracer.stop() == 0
        assert len(tracer.lines) >= count


def play_here() -> None:
    """A session between this process and itself, on loopback."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        listener.accept()[0].close()
        assert client.recv(1) == b""


@pytest.mark.parametrize("tool", [OURS, STATES])
def test_user(tool: tuple[str, ...], copy: Copy) -> None:
    code, line = refused(*tool, "--user", "nobody-of-that-name")
    assert (code, "--user nobody-of-that-name: no such user" in line) == (2, True)


def test_user_takes_privilege(copy: Copy) -> None:
    prefix = copy.as_nobody(*minimum(BEST))
    argv = (*prefix, *copy.tool, "--tier", str(BEST))
    code, line = refused(*argv, "--user", "daemon")
    assert code == 1
    assert "--user daemon: that takes root, or CAP_SETUID and CAP_SETGID" in line
    # One need not become who one is.
    with ours("--json", "--user", "nobody", prefix=prefix, tool=copy.tool) as tracer:
        assert tracer.stop() == 0


# ---- less than the minimum ----------------------------------------------------


@pytest.mark.parametrize("less", TRACE)
@pytest.mark.parametrize("tier", TIERS)
def test_both_capabilities_are_needed(tier: int, less: str, copy: Copy) -> None:
    rest = [name for name in minimum(tier) if name != less]
    argv = (*copy.as_nobody(*rest), *copy.tool, "--tier", str(tier))
    code, line = refused(*argv)
    assert (code, f"CAP_{less.upper()} missing" in line) == (1, True)
    code, lines = checked(*argv)
    assert code == 1
    first = next(line for line in lines if line.startswith("no "))
    assert first.endswith("the capabilities CAP_BPF and CAP_PERFMON")


def test_nobody(copy: Copy) -> None:
    """Whatever kernel.unprivileged_bpf_disabled says."""
    code, line = refused(*copy.as_nobody(), *copy.tool)
    assert (code, "CAP_BPF and CAP_PERFMON missing" in line) == (1, True)


def test_user_namespace(copy: Copy) -> None:
    """All capabilities, but none that counts."""
    argv = ("unshare", "--user", "--map-root-user", *copy.tool)
    code, line = refused(*argv)
    assert (code, "as in a user namespace" in line) == (1, True)
    code, lines = checked(*argv)
    assert code == 1
    assert any(line.startswith("no    bpf(2)") for line in lines)


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS])
def test_seccomp(code: int, copy: Copy) -> None:
    argv = (*confined("--refuse-bpf", str(code)), *copy.tool)
    result, line = refused(*argv)
    assert (result, "bpf(2) is refused by a seccomp filter" in line) == (1, True)
    result, lines = checked(*argv)
    assert result == 1
    assert any(line.startswith("no    bpf(2)") for line in lines)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("--no-libbpf", "libbpf.so.1 is not installed; get it with"),
        ("--old-libbpf", "this host's libbpf is 0.x (libbpf.so.0), and 1.0"),
    ],
)
def test_libbpf(what: str, told: str, copy: Copy) -> None:
    argv = (*confined(what), *copy.tool)
    code, line = refused(*argv)
    assert (code, told in line) == (1, True)
    code, lines = checked(*argv)
    assert code == 1
    assert lines[-1].startswith(f"no    {told}")


def test_no_btf(copy: Copy, types: str, tmp_path: Path) -> None:
    argv = (*confined(*NO_BTF), *copy.tool)
    code, line = refused(*argv)
    assert code == 1
    assert f"{KERNEL} is not there" in line
    assert "with --btf FILE or as /var/lib/tcplife/" in line
    code, lines = checked(*argv)
    assert code == 1
    assert any(line.startswith(f"no    {KERNEL}") for line in lines)
    # Tiers 1 and 2 take the kernel's own.
    code, lines = checked(*argv, "--btf", types)
    tiers = [int(line.split()[2][:-1]) for line in lines if line[:10] == "yes   tier"]
    assert (code, tiers) == (0, WITHOUT_BTF)
    assert f"yes   BTF: {types}" in lines


def test_btf_in_a_vmlinux(copy: Copy, types: str) -> None:
    """Where libbpf looks by itself."""
    path = f"/boot/vmlinux-{os.uname().release}"
    prefix = confined(*NO_BTF, "--empty", "/boot", "--put", types, path)
    code, lines = checked(*prefix, *copy.tool)
    assert code == 0
    assert "yes   BTF: in a vmlinux" in lines


def test_bad_btf(copy: Copy, types: str, tmp_path: Path) -> None:
    for name, content in (
        ("text", b"BTF, as it were"),
        ("cut", Path(types).read_bytes()[:5000]),
        ("elf", Path("/proc/self/exe").read_bytes()),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        code, line = refused(*copy.tool, "--btf", str(path))
        assert (code, f"--btf {path}: " in line) == (2, True)
    code, line = refused(*copy.tool, "--btf", "/no/such")
    assert (code, "--btf /no/such: No such file" in line) == (2, True)


# ---- check --------------------------------------------------------------------


def test_check_of_this_host() -> None:
    code, lines = checked(*OURS[:3])
    assert code == 0
    assert re.fullmatch(r"tcplife \S+, Python \S+, Linux \S+ \S+", lines[0])
    assert lines[-1] == f"Tracing works here, with tier {BEST}."
    words = {line.split()[0] for line in lines[1:-1]}
    assert words <= {"yes", "no", "note"}
    for need in ("libbpf", "CAP_BPF", "bpf(2)", "lockdown", "BTF", "tier 4"):
        assert any(need in line for line in lines), need
    assert not any(line.startswith("note") for line in lines)


@pytest.mark.parametrize("tier", [1, 2, 3, 4])
def test_check_of_one_tier(tier: int) -> None:
    code, lines = checked(*OURS[:3], "--tier", str(tier))
    assert code == (tier not in TIERS)
    answer = "yes" if tier in TIERS else "no"
    assert len([line for line in lines if re.match(rf"{answer} +tier \d: ", line)]) == 1


def test_check_says_who_cannot_be_looked_for(copy: Copy) -> None:
    tier = OLDER[0]
    argv = (*copy.as_nobody(*TRACE), *copy.tool, "--tier", str(tier))
    code, lines = checked(*argv)
    assert code == 0
    assert any("CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE" in line for line in lines)


# ---- a container --------------------------------------------------------------

PLAY = """
import os, socket, struct, sys
listener = socket.create_server(("127.0.0.1", 0))
address = listener.getsockname()
def session():
    client = socket.create_connection(address)
    return client, listener.accept()[0]
client, server = session()
client.close()
assert server.recv(1) == b""
server.close()
client, held = session()
linger = struct.pack("ii", 1, 0)
client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
client.close()
print(os.getpid(), address[1], flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("tier", TIERS)
def test_container(tier: int, copy: Copy) -> None:
    """Its own PID and network namespaces: PIDs are the host's all the same."""
    prefix = (*CONTAINER, "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh")
    words = ("--json", "--tier", str(tier), "--netns", "self")
    with ours(*words, prefix=prefix, tool=copy.tool) as tracer:
        (inside,) = children(tracer.process.pid)
        enter = ("nsenter", f"--target={inside}", "--pid", "--net", "--mount")
        with subprocess.Popen(
            [*enter, copy.tool[2], "-IS", "-c", PLAY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as player:
            assert player.stdout
            assert player.stdin
            own, port = map(int, player.stdout.readline().split())
            (pid,) = children(player.pid)
            assert own != pid
            # Both ends of the first session, and one of the second; the kernel finds
            # who holds the other, if it is in there, too.
            certain = 4 if tier == 1 else 3
            assert tracer.wait_for(lambda: len(mine(tracer, port)) >= certain)
            assert stop(tracer) == 0
            player.stdin.close()
        rows = mine(tracer, port)
        assert len(rows) == 4
        assert [row.pid for row in rows[:certain]] == [pid] * certain
        told = [line for line in tracer.errors if "could not be looked for" in line]
        assert len(told) == (4 - certain)
    code, lines = checked(*CONTAINER, *copy.tool)
    assert code == 0
    notes = [line for line in lines if line.startswith("note  ")]
    assert any("PIDs are those of the host" in line for line in notes)
    assert any("only with the host's PID namespace" in line for line in notes)


def mine(tracer: Tracer, port: int) -> list[Row]:
    """In the order in which they came."""
    rows = [row for several in tracer.rows().values() for row in several]
    return [row for row in rows if port in (row.lport, row.rport)]


# ---- -a and --open ------------------------------------------------------------


@contextmanager
def open_here() -> Iterator[set[Key]]:
    """A session between this process and itself; its ends."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0],
    ):
        here, there = client.getsockname(), client.getpeername()
        yield {here + there, there + here}


PARTIAL = "sessions open in the network namespace "


@pytest.mark.parametrize(
    ("more", "all_of_them"), [((), False), (("sys_ptrace", "sys_admin"), True)]
)
def test_open_with_few_capabilities(
    more: tuple[str, ...], all_of_them: bool, copy: Copy, network: Network
) -> None:
    argv = (*copy.as_nobody(*TRACE, *more), *copy.tool, "--open")
    if 1 not in TIERS:
        code, line = refused(*argv)
        assert (code, "takes tier 1, which this kernel (" in line) == (1, True)
        return
    stage = Stage(network, "ipv4")
    try:
        link = exchanged(stage)
        with open_here() as here:
            done = subprocess.run(
                [*argv, "--json"],
                check=True,
                capture_output=True,
                text=True,
            )
            rows = [json.loads(line) for line in done.stdout.splitlines()]
    finally:
        stage.close()
    found = {(r["laddr"], r["lport"], r["raddr"], r["rport"]): r["pid"] for r in rows}
    assert {key: os.getpid() for key in here}.items() <= found.items()
    there = {end.key: end.pid for end in link.ends()}
    assert {key: found.get(key) for key in there} == (
        there if all_of_them else dict.fromkeys(there)
    )
    assert (PARTIAL in done.stderr) == (not all_of_them or some_are_hidden())


def test_all_with_few_capabilities(copy: Copy, network: Network) -> None:
    prefix = copy.as_nobody(*TRACE, "sys_ptrace", "sys_admin")
    if 1 not in TIERS:
        code, line = refused(*prefix, *copy.tool, "-a")
        assert (code, "takes tier 1, which this kernel (" in line) == (1, True)
        return
    stage = Stage(network, "ipv4")
    try:
        ended, kept = exchanged(stage), exchanged(stage)
        with ours("--json", "-a", prefix=prefix, tool=copy.tool) as tracer:
            part(ended.client, ended.server)
            assert tracer.wait_for_ends(ended.ends())
            assert tracer.stop() == 0
            told = any(PARTIAL in line for line in tracer.errors)
            assert told == some_are_hidden()
    finally:
        stage.close()
    for link in (ended, kept):
        for end in link.ends():
            assert [end_of(row) for row in tracer.rows()[end.key]] == [end]


@pytest.mark.parametrize("option", ["-a", "--open"])
@pytest.mark.parametrize("tier", OLDER)
def test_open_sessions_take_tier_1(tier: int, option: str, copy: Copy) -> None:
    code, line = refused(*copy.tool, option, "--tier", str(tier))
    assert (code, "takes tier 1, " in line, f"leave --tier {tier} out" in line) == (
        *(1, True),
        True,
    )


@pytest.mark.parametrize("option", ["-a", "--open"])
def test_open_sessions_where_the_best_tier_is_another(
    option: str, copy: Copy, types: str
) -> None:
    argv = (*confined(*NO_BTF), *copy.tool, "--btf", types)
    code, line = refused(*argv, option)
    assert (code, "takes tier 1, which this kernel (" in line) == (1, True)


# ---- limits of the older tiers ------------------------------------------------


@pytest.mark.parametrize("tier", OLDER)
def test_more_sessions_than_are_followed(tier: int) -> None:
    limit, count = 10, 40
    mine = ("-p", str(os.getpid()), "--json", "--tier", str(tier))
    with ours(*mine, "--max-sessions", str(limit)) as tracer:
        with ExitStack() as stack:
            keys = set()
            for _ in range(count):
                keys |= stack.enter_context(open_here())
        assert says(tracer, "lost: ")
        assert tracer.stop() == 0
    rows = tracer.rows()
    assert rows.keys() <= keys
    assert len(rows) <= limit
    *_, last = [line for line in tracer.errors if "lost: " in line]
    found = re.search(r"(\d+) sessions could not be followed", last)
    assert found, last
    # Others' sessions may have been among those, and among the ten.
    assert len(rows) + int(found[1]) >= len(keys)


def test_rows_that_find_no_room_are_counted() -> None:
    """In tier 3, a processor's perf buffer has 512 KiB; here for 112 bytes a row."""
    tier = max(TIERS)
    assert tier > 2
    room = (512 << 10) // 112 * (os.cpu_count() or 1)
    sessions = room // 2 + 500
    with ours("-p", str(os.getpid()), "--json", "--tier", str(tier)) as tracer:
        os.kill(tracer.process.pid, signal.SIGSTOP)
        stopped = f"/proc/{tracer.process.pid}/status"
        wait_until(lambda: "State:\tT" in Path(stopped).read_text(), "it goes on")
        for _ in range(sessions):
            play_here()
        os.kill(tracer.process.pid, signal.SIGCONT)
        assert tracer.stop() == 0
    *_, last = [line for line in tracer.errors if "lost: " in line]
    found = re.search(r"(\d+) rows found", last)
    assert found, last
    assert int(found[1]) > 0
    assert len(tracer.lines) + int(found[1]) == 2 * sessions
