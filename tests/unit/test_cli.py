"""The command line: what it refuses and how, and what it prints without tracing."""

from __future__ import annotations

import gc
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tcplife
from tcplife.cli import host, modes
from tcplife.cli import tcplife as command
from tcplife.columns.sessions import SESSION_COLUMNS

# Options and values, and what the message must name of them.
BAD: dict[str, tuple[str, ...]] = {
    **{
        f"{option} {shlex.quote(value)}": ("-p/--pid", value)
        for option in ("-p", "--pid")
        for value in ("", "0", "-1", "4194305", "1,0", "1,,2", "x", "1-2", "1.5")
    },
    **{
        f"{option} {shlex.quote(value)}": (name, value)
        for name in ("-L/--localport", "-D/--remoteport")
        for option in name.split("/")
        for value in (
            "",
            "65536",
            "-1",
            "-80",
            "80-",
            "90-80",
            "80,x",
            "80:90",
            "1-2-3",
        )
    },
    **{
        f"{option} {shlex.quote(value)}": ("-c/--count", value)
        for option in ("-c", "--count")
        for value in ("", "0", "-1", "+1", "x", "1.5", "1e3", "9" * 30)
    },
    **{
        f"--duration {shlex.quote(value)}": ("--duration", value)
        for value in ("", "0", "-1", "x", "nan", "inf", "1e300", "1e-999", "5s")
    },
    "--style x": ("--style", "'x'", "bcc", "bt", "libbpf"),
    "--style ''": ("--style", "''"),
    "-4 -6": ("-4/--ipv4", "-6/--ipv6"),
    "-64": ("-4/--ipv4", "-6/--ipv6"),
    "--ipv6 --ipv4": ("-4/--ipv4", "-6/--ipv6"),
    "--json -s": ("--json", "-s/--csv"),
    "--json --wide": ("--json", "-w/--wide"),
    "--style bt -s": ("--style bt", "-s/--csv"),
    "--style bt -w": ("--style bt", "-w/--wide"),
    "--style libbpf -s": ("--style libbpf", "-s/--csv"),
    "--style libbpf -ws": ("--style libbpf", "-s/--csv"),
    "-p": ("-p/--pid", "argument"),
    "-L -4": ("-L/--localport -4", "not a value"),
    "--rotate -1G": ("--rotate -1G", "not a value"),
    "-c 99999999999999999999999": ("-c/--count", "from 1 to"),
    "--min-ms 1e30": ("--min-ms 1e30", "below 1e+15"),
    "--by pid": ("--by needs --summary or --hist",),
    "--sort p99": ("--sort needs --summary or --hist",),
    "--top 3": ("--top needs --summary or --hist",),
    "--max-groups 3": ("--max-groups needs --summary or --hist",),
    "--force": ("--force needs --record or -O/--output",),
    "--duration": ("--duration", "argument"),
    "--time=5": ("--time", "5"),
    "--ti": ("--ti", "--time", "--timestamp"),
    "--nonsense": ("--nonsense",),
    "-q": ("-q",),
    "--laddr 10.0.0.0/33": ("--laddr", "10.0.0.0/33"),
    "--raddr fd00::/8,host": ("--raddr", "host"),
    "--comm curl,": ("--comm", "curl,"),
    "-u nobody-of-that-name": ("-u/--uid", "nobody-of-that-name"),
    "--uid 4294967296": ("-u/--uid", "4294967296"),
    "--netns no-such-netns": ("--netns", "/run/netns/no-such-netns"),
    "--cgroup /no/such": ("--cgroup", "/no/such"),
    "--dir up": ("--dir", "up"),
    "--end closed,never": ("--end", "never"),
    "--min-ms -1": ("--min-ms", "-1"),
    "--min-bytes many": ("--min-bytes", "many"),
    "--slower-connect nan": ("--slower-connect", "nan"),
    "-o pid,nonsense": ("-o/--columns", "nonsense"),
    "-o +": ("-o/--columns", "+"),
    "-x --json": ("--json", "-x"),
    "-a --open": ("--open", "-a/--all"),
    **{
        f"--tier {shlex.quote(value)}": ("--tier", value, "1, 2, 3 or 4")
        for value in ("", "0", "5", "-1", "x", "1.0", "12")
    },
    **{
        f"--max-sessions {shlex.quote(value)}": ("--max-sessions", value)
        for value in ("", "0", "-1", "x", "1e3", "16777217", "0" * 12 + "99999999")
    },
    "--btf /no/such.btf": ("--btf", "/no/such.btf", "No such file"),
    "--btf /": ("--btf", "Is a directory"),
    "--btf /dev/null": ("--btf", "/dev/null", "not BTF"),
    "--btf /etc/passwd": ("--btf", "/etc/passwd", "not BTF"),
    "--user nobody-of-that-name": ("--user", "nobody-of-that-name"),
    "--user ''": ("--user", "no such user"),
    "--user 0": ("--user", "no such user"),
    "--check --tier 9": ("--tier", "9"),
    "80": ("80",),
    # A bad value is told even where nothing would be traced.
    "--ebpf -p x": ("-p/--pid", "x"),
}
CONTROLS = (
    "--user 'a\nb'",
    "--btf '/\x1b'",
    "-p '1\n2'",
    "-L '\x1b[31m'",
    "--duration '\r'",
    "--style '\n'",
    "'a\nb'",
)

# Arguments -> exit status
Run = Callable[[str], int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The command, in this process, up to where it would begin to trace."""

    def accepted(*_: object) -> None:
        pytest.fail("it was accepted")

    def run(arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["tcplife", *shlex.split(arguments)])
        try:
            return command.main()
        except SystemExit as leaving:
            return leaving.code if isinstance(leaving.code, int) else 0

    monkeypatch.setattr(host, "trace", accepted)
    yield run
    gc.enable()


@pytest.mark.parametrize("arguments", BAD)
def test_bad_usage(arguments: str, run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("tcplife: ")
    assert err.endswith("\n")
    assert err[:-1].isprintable()
    for named in BAD[arguments]:
        assert named in err


@pytest.mark.parametrize("arguments", CONTROLS)
def test_control_characters_stay_in_one_line(
    arguments: str, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert capfd.readouterr().err[:-1].isprintable()


def test_host_options(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr(
        host, "trace", lambda _name, _wire, options, _, **__: given.append(options)
    )
    monkeypatch.setattr(host, "check", given.append)
    assert run("") == 0
    assert run("--tier 3 --max-sessions 16777216 --user root --check") == 0
    assert run(f"--btf {shlex.quote(sys.executable)}") == 0  # ELF, so it may have it
    options = [(o.check, o.tier, o.max_sessions, o.user, bool(o.btf)) for o in given]
    assert options == [
        (False, None, 65536, None, False),
        (True, 3, 16777216, "root", False),
        (False, None, 65536, None, True),
    ]


def test_all_of_it_is_accepted(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    filters = []
    monkeypatch.setattr(
        host, "trace", lambda _name, _wire, options, _, **__: filters.append(options)
    )
    assert run("-p 1,2 -L 80 -D 1-2 -4 -Ttws -c 5 --duration 2.5 -v") == 0
    assert run("--pid=3 --ipv6 --json --style bt") == 0
    first, second = map(modes.filter_from, filters)
    assert (first.pids, first.local_ports, first.remote_ports, first.family) == (
        [1, 2],
        [(80, 80)],
        [(1, 2)],
        4,
    )
    assert (list(second.pids), list(second.local_ports), second.family) == ([3], [], 6)
    assert (filters[0].count, filters[0].duration) == (5, 2.5)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(option: str, run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(option) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert [line for line in out.splitlines() if len(line) > 80] == []
    words = out.replace(",", " ").split()
    for action in command._parser()._actions:
        assert set(action.option_strings) <= set(words)
        assert action.help
    *_, columns = out.partition("columns:")
    for column in SESSION_COLUMNS.values():
        assert f"\n  {column.title} " in columns


PACKAGE = Path(tcplife.__file__).parent


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(option: str, run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(option) == 0
    out, err = capfd.readouterr()
    first, second = out.splitlines()
    assert (first, err) == (f"tcplife {tcplife.__version__}", "")
    assert second.startswith(f"of the Python package tcplife in {PACKAGE}, ")


def test_ebpf_prints_the_source(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--ebpf") == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause" in out
    assert 'TRACEPOINT("inet_sock_set_state")' in out
    assert "#define TIER 1" in out
    assert run("--ebpf --tier 3") == 0
    assert capfd.readouterr().out == "#define TIER 3\n" + out
    assert "struct session_event {" in out
    assert '#include "' not in out


# What is printed without tracing: it needs neither root nor BPF.
PRINTED = ["--ebpf", "--help", "-V"]


def start(arguments: str, stdout: int) -> subprocess.CompletedProcess[str]:
    """As a user has it: Python holds back what it prints until it ends."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, "-m", "tcplife", *shlex.split(arguments)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("arguments", PRINTED)
def test_it_is_a_module(arguments: str) -> None:
    ended = start(arguments, subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout


def test_bad_usage_of_the_module() -> None:
    ended = start("--style x", subprocess.PIPE)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", PRINTED)
def test_a_closed_pipe_is_a_quiet_end(arguments: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = start(arguments, writer)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("arguments", PRINTED)
def test_a_full_disk_is_told_in_one_line(arguments: str) -> None:
    with open("/dev/full", "wb") as full:
        ended = start(arguments, full.fileno())
    assert ended.returncode == 1
    assert ended.stderr == "tcplife: cannot write the output: No space left on device\n"
