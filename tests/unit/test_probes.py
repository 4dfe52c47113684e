"""What is said where tracing isn't possible; the hosts are fakes."""

from __future__ import annotations

import ctypes
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tcplife.errors import UnavailableError
from tcplife.kernel import privileges, probes, tiers
from tcplife.kernel.libbpf import Library
from tcplife.kernel.program import LoadError

ALL = (1 << 41) - 1
SYS_ADMIN, PERFMON, BPF = 1 << 21, 1 << 38, 1 << 39


class FakeHost:
    """A host that allows all, until it is told otherwise."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self._lockdown = folder / "lockdown"
        self._btf = folder / "vmlinux"
        self._btf.touch()
        patch.setattr(probes, "LOCKDOWN", str(self._lockdown))
        patch.setattr(probes, "KERNEL", str(self._btf))
        self.capabilities(ALL)
        self.bpf_syscall(0)

    def capabilities(self, held: int) -> None:
        text = f"Name:\tpython3\nCapPrm:\t{ALL:016x}\nCapEff:\t{held:016x}\n"

        def fake_open(path: str, **options: str) -> io.TextIOBase:
            if path == "/proc/self/status":
                return io.StringIO(text)
            return open(path, **options)  # type: ignore[call-overload,no-any-return]

        self._patch.setattr(privileges, "open", fake_open, raising=False)

    def bpf_syscall(self, code: int) -> None:
        """code: the errno of bpf(2), 0 if it works."""

        class FakeLibc:
            def syscall(self, number: int, *_: object) -> int:
                assert number in (321, 280)
                return -1 if code else 99

        self._patch.setattr(ctypes, "CDLL", lambda *_, **__: FakeLibc())
        self._patch.setattr(ctypes, "get_errno", lambda: code)
        self._patch.setattr(os, "close", lambda fd: None)

    def no_btf(self) -> None:
        self._btf.unlink()

    def locked_down(self, modes: str) -> None:
        self._lockdown.write_text(modes)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    return FakeHost(tmp_path, monkeypatch)


def explain() -> str:
    told = probes.explain(["tier 1: tcplife: Operation not permitted"], ["first", "2"])
    assert "\n" not in told
    return told


def test_nothing_is_missing(host: FakeHost) -> None:
    told = explain()
    assert "does not take the programs; --check says what is missing" in told
    assert "(tier 1: tcplife: Operation not permitted; first)" in told


@pytest.mark.parametrize(
    ("held", "missing"),
    [
        (0, "CAP_BPF and CAP_PERFMON missing"),
        (BPF, "CAP_PERFMON missing"),
        (PERFMON, "CAP_BPF missing"),
        (ALL & ~SYS_ADMIN & ~BPF & ~PERFMON, "CAP_BPF and CAP_PERFMON missing"),
    ],
)
def test_capabilities(held: int, missing: str, host: FakeHost) -> None:
    host.capabilities(held)
    told = explain()
    assert told.startswith(f"tracing is not permitted: {missing}; ")
    assert "sudo" in told
    assert "CAP_BPF and CAP_PERFMON" in told


@pytest.mark.parametrize("held", [BPF | PERFMON, SYS_ADMIN, ALL])
def test_enough_capabilities(held: int, host: FakeHost) -> None:
    host.capabilities(held)
    assert probes.missing_capabilities() == ""


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.EPERM, "seccomp"),
        (errno.EACCES, "seccomp"),
        (errno.ENOSYS, "CONFIG_BPF_SYSCALL"),
        (errno.E2BIG, ""),
        (0, ""),
    ],
)
def test_refused_syscall(code: int, told: str, host: FakeHost) -> None:
    host.bpf_syscall(code)
    found = probes.refused_syscall()
    assert told in found
    assert bool(found) == bool(told)


def test_no_btf(host: FakeHost) -> None:
    host.no_btf()
    assert "the kernel has no BTF; give it with --btf FILE" in explain()


@pytest.mark.parametrize(
    ("modes", "locked"),
    [
        ("none integrity [confidentiality]\n", True),
        ("none [integrity] confidentiality\n", False),
        ("[none] integrity confidentiality\n", False),
    ],
)
def test_lockdown(modes: str, locked: bool, host: FakeHost) -> None:
    host.locked_down(modes)
    assert ("boot with lockdown=integrity" in explain()) == locked


def test_the_first_thing_that_is_missing_is_told(host: FakeHost) -> None:
    """What is nearest to the user comes first: each hides those behind it."""
    telling: dict[str, Callable[[], None]] = {
        "locked down": lambda: host.locked_down("none integrity [confidentiality]"),
        "no BTF": host.no_btf,
        "bpf(2) is refused": lambda: host.bpf_syscall(errno.EPERM),
        "CAP_BPF missing": lambda: host.capabilities(PERFMON),
    }
    for told, spoil in telling.items():
        spoil()
        assert told in explain()


def test_no_libbpf(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake_dll(name: str, **_: object) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", fake_dll)
    with pytest.raises(UnavailableError) as raised:
        Library()
    assert "libbpf.so.1 is not installed" in str(raised.value)
    assert "apt install libbpf1" in str(raised.value)


class FakeProgram:
    """Loads, unless its object is one of those that the host refuses."""

    refused: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()

    def __init__(self, library: object, name: str, btf: str | None) -> None:
        self.name = name

    def load(self) -> None:
        if self.name in self.refused:
            raise LoadError(f"{self.name}: refused")

    def attach(self) -> None:
        pass

    def close(self) -> None:
        type(self).closed += (self.name,)


class FakeLibbpf:
    complaints = ("libbpf's warning",)


Open = Callable[..., tiers.Opened]


@pytest.fixture
def open_tier(monkeypatch: pytest.MonkeyPatch) -> Open:
    """Of two tiers; the arguments are the objects that the host refuses."""

    def opened(*refused: str) -> tiers.Opened:
        monkeypatch.setattr(FakeProgram, "refused", refused)
        monkeypatch.setattr(FakeProgram, "closed", ())
        library: Any = FakeLibbpf()
        return tiers.open_tier(
            library, lambda tier: f"tool{tier.suffix}", lambda *_: None, tiers=two
        )

    two = (tiers.Tier(1, "much"), tiers.Tier(2, "little"))
    monkeypatch.setattr(tiers, "Program", FakeProgram)
    return opened


def test_the_best_tier_that_loads_is_taken(open_tier: Open) -> None:
    opened = open_tier()
    assert (opened.tier.number, opened.program.name) == (1, "tool")
    assert not FakeProgram.closed
    opened = open_tier("tool")
    assert (opened.tier.number, opened.program.name) == (2, "tool_2")
    assert FakeProgram.closed == ("tool",)
    assert opened.failures == ["tier 1: tool: refused"]


def test_no_tier_loads(open_tier: Open, host: FakeHost) -> None:
    with pytest.raises(UnavailableError) as raised:
        open_tier("tool", "tool_2")
    assert FakeProgram.closed == ("tool", "tool_2")
    told = "tier 1: tool: refused; tier 2: tool_2: refused; libbpf's warning"
    assert told in str(raised.value)
