"""--check: a line a need, and whether it all will do; the host is a fake."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from tcplife.cli import host as tracing_host
from tcplife.errors import UnavailableError
from tcplife.kernel import btf, check, privileges, probes
from tcplife.kernel.program import LoadError
from tcplife.kernel.tiers import TIERS, Tier

ALL = set(privileges.CAPABILITIES)
OK = [
    "yes   libbpf v1.9 (libbpf.so.1)",
    "yes   CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN",
    "yes   bpf(2)",
    "yes   kernel memory may be read (lockdown)",
    "yes   BTF: in a vmlinux",
]


class FakeLibrary:
    name = "libbpf.so.1"

    def __init__(self) -> None:
        self.complaints: list[str] = []

    def libbpf_version_string(self) -> bytes:
        return b"v1.9"

    def btf__parse(self, path: bytes, base: None) -> int:
        return int(path == b"/good.btf")

    def btf__free(self, parsed: int) -> None:
        pass


class FakeProgram:
    closed = 0

    def close(self) -> None:
        FakeProgram.closed += 1


class FakeHost:
    """Allows all, until it is told otherwise."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self.refused: dict[int, str] = {}
        self.complaint = ""
        for name in ("missing_capabilities", "refused_syscall", "locked_down"):
            self.lacks(name, "")
        for name in ("missing_btf",):
            patch.setattr(probes, name, lambda _: "")
        self.lacks("missing_kprobes", "no kprobes")
        patch.setattr(btf, "KERNEL", "/fake/vmlinux")
        patch.setattr(btf, "find_btf", lambda: None)
        patch.setattr(check, "Library", FakeLibrary)
        patch.setattr(check, "load", self._load)
        patch.setattr(FakeProgram, "closed", 0)
        self.container(False)
        self.holds(ALL)

    def lacks(self, probe: str, told: str) -> None:
        self._patch.setattr(probes, probe, lambda: told)

    def container(self, yes: bool) -> None:
        self._patch.setattr(check, "in_container", lambda: yes)

    def holds(self, capabilities: set[str]) -> None:
        self._patch.setattr(privileges, "effective", lambda: set(capabilities))

    def _load(
        self, library: FakeLibrary, name: str, tier: Tier, *_: object
    ) -> FakeProgram:
        assert name == f"tcplife{tier.suffix}"
        if tier.number not in self.refused:
            return FakeProgram()
        if self.complaint:
            library.complaints.append(f"{self.complaint} {tier.number}")
        raise LoadError(self.refused[tier.number])


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    return FakeHost(monkeypatch)


def needs(**options: Any) -> tuple[list[str], bool]:
    """The lines but the first, which is of versions."""
    (first, *lines), works = check.report(options.get("btf"), options.get("tier"))
    assert first.startswith("tcplife ")
    assert all("\n" not in line for line in lines)
    return lines, works


def tier_lines(*answers: str) -> list[str]:
    return [
        f"{answer.split()[0]:<5} tier {tier.number}: {tier.needs}"
        + answer.partition(" ")[2]
        for tier, answer in zip(TIERS, answers, strict=True)
    ]


def test_all_is_there(host: FakeHost) -> None:
    lines, works = needs()
    assert works
    yes = tier_lines("yes", "yes", "yes", "yes")
    assert lines == [*OK, *yes, "Tracing works here, with tier 1."]
    assert FakeProgram.closed == 4


def test_older_kernel(host: FakeHost) -> None:
    host.refused = {1: "tcplife: Invalid argument", 4: "tcplife_4: No such file"}
    host.complaint = "libbpf's warning"
    lines, works = needs()
    assert works
    assert lines == [
        *OK,
        *tier_lines(
            "no : tcplife: Invalid argument; libbpf's warning 1",
            "yes",
            "yes",
            "no : tcplife_4: No such file; libbpf's warning 4; no kprobes",
        ),
        "Tracing works here, with tier 2.",
    ]


def test_nothing_loads(host: FakeHost) -> None:
    host.refused = dict.fromkeys((1, 2, 3, 4), "no")
    lines, works = needs()
    assert not works
    assert lines[-1].startswith("no    tier 4: ")
    host.complaint = "Failed to bump RLIMIT_MEMLOCK"
    lines, works = needs()
    assert not works
    assert "ulimit -l unlimited" in lines[-1]


def test_one_tier(host: FakeHost) -> None:
    host.refused = {3: "no"}
    lines, works = needs(tier=2)
    assert (lines[-1], works) == ("Tracing works here, with tier 2.", True)
    assert len(lines) == len(OK) + 2
    lines, works = needs(tier=3)
    assert (len(lines), works) == (len(OK) + 1, False)


def test_not_permitted(host: FakeHost) -> None:
    """What follows from it is not told as well."""
    host.lacks("missing_capabilities", "CAP_BPF missing")
    host.lacks("refused_syscall", "refused")
    lines, works = needs()
    assert not works
    see = ": see above"
    assert lines == [
        OK[0],
        "no    CAP_BPF missing",
        *OK[3:],
        *tier_lines(*[f"no {see}"] * 4),
    ]
    host.lacks("missing_capabilities", "")
    lines, works = needs()
    assert not works
    assert lines[1:3] == [OK[1], "no    refused"]


def test_locked_down(host: FakeHost) -> None:
    host.lacks("locked_down", "the kernel is locked down")
    assert "no    the kernel is locked down" in needs()[0]


def test_btf_file(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "yes   BTF: /good.btf" in needs(btf="/good.btf")[0]
    assert "no    /bad.btf: there is no BTF in it" in needs(btf="/bad.btf")[0]
    monkeypatch.setattr(btf, "find_btf", lambda: "/found.btf")
    assert "yes   BTF: /found.btf" in needs()[0]
    monkeypatch.setattr(probes, "missing_btf", lambda _: "no BTF")
    assert "no    no BTF" in needs()[0]


def test_no_libbpf(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise UnavailableError("libbpf.so.1 is not installed")

    monkeypatch.setattr(check, "Library", none)
    assert needs() == (["no    libbpf.so.1 is not installed"], False)


OWNERS = "note  the owners of all sessions still held are found only with "
SPACES = "note  -a and --open know all network namespaces only with "


@pytest.mark.parametrize(
    ("refused", "held", "container", "notes"),
    [
        ((), ALL, False, []),
        (
            (),
            {"CAP_BPF", "CAP_PERFMON"},
            False,
            [f"{SPACES}CAP_SYS_ADMIN and CAP_SYS_PTRACE"],
        ),
        (
            (1,),
            {"CAP_BPF", "CAP_PERFMON"},
            False,
            [f"{OWNERS}CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE"],
        ),
        ((1,), ALL, False, []),
        (
            (1,),
            ALL - {"CAP_SYS_PTRACE"},
            True,
            [
                "note  a container: PIDs are those of the host, in -p as well",
                f"{OWNERS}CAP_SYS_PTRACE and the host's PID namespace",
            ],
        ),
        (
            (),
            ALL,
            True,
            [
                "note  a container: PIDs are those of the host, in -p as well",
                f"{OWNERS}the host's PID namespace",
                f"{SPACES}the host's PID namespace",
            ],
        ),
    ],
)
def test_notes(
    refused: tuple[int, ...],
    held: set[str],
    container: bool,
    notes: list[str],
    host: FakeHost,
) -> None:
    host.refused = dict.fromkeys(refused, "no")
    host.holds(held)
    host.container(container)
    lines, works = needs()
    assert works
    assert [line for line in lines if line.startswith("note")] == notes


@pytest.mark.parametrize(
    ("tier", "told"),
    [
        (None, "this host cannot be traced; see above"),
        (2, "this host cannot be traced with tier 2; see above"),
    ],
)
def test_command(
    tier: int | None, told: str, host: FakeHost, capfd: pytest.CaptureFixture[str]
) -> None:
    options = argparse.Namespace(btf=None, tier=tier)
    tracing_host.check(options)
    assert capfd.readouterr().out.endswith(f"with tier {tier or 1}.\n")
    host.refused = dict.fromkeys((1, 2, 3, 4), "un\nprintable")
    with pytest.raises(UnavailableError, match=told):
        tracing_host.check(options)
    out = capfd.readouterr().out
    assert len(out.splitlines()) == 1 + len(OK) + (1 if tier else 4)
