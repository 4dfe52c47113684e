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

from tcplife.errors import UnavailableError, UsageError
from tcplife.kernel import btf, privileges, probes, tiers
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
        self.unpacked_btf = folder / f"{os.uname().release}.btf"
        patch.setattr(probes, "LOCKDOWN", str(self._lockdown))
        patch.setattr(btf, "KERNEL", str(self._btf))
        patch.setattr(btf, "PLACES", (f"{folder}/none-{{}}", f"{folder}/{{}}.btf"))
        self.seccomp = 0
        self.capabilities(ALL)
        self.bpf_syscall(0)

    def capabilities(self, held: int) -> None:
        text = f"CapPrm:\t{ALL:016x}\nCapEff:\t{held:016x}\nSeccomp:\t{self.seccomp}\n"

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


class FakeLibbpf:
    """Reads BTF from what begins with its magic; has warned."""

    complaints = ("libbpf's warning", "another")

    def btf__parse(self, path: bytes, base: None) -> int:
        with open(path, "rb") as file:
            return int(file.read(2) == b"\x9f\xeb")

    def btf__load_vmlinux_btf(self) -> int:
        return int("vmlinux" in self.complaints)

    def btf__free(self, parsed: int) -> None:
        pass


def missing(given: str | None = None, *complaints: str) -> str:
    library: Any = FakeLibbpf()
    library.complaints = complaints
    told = probes.missing(library, given)
    assert "\n" not in told
    return told


def test_nothing_is_missing(host: FakeHost) -> None:
    assert missing() == ""


@pytest.mark.parametrize(
    ("tiers", "asked", "told"),
    [
        ([1, 2], "", "does not take the programs of any tier; --check says what is"),
        ([3], "", "does not take the programs of tier 3; --check says what is"),
        ([1], "-a", "-a takes tier 1, which this kernel ("),
    ],
)
def test_all_is_there_and_the_kernel_refuses(
    tiers: list[int], asked: str, told: str
) -> None:
    failures = ["tier 1: tcplife: Operation not permitted"]
    line = probes.explain(tiers, failures, ["first", "second"], asked)
    assert told in line
    assert line.endswith(" (tier 1: tcplife: Operation not permitted; first)")
    assert os.uname().release in line


@pytest.mark.parametrize(
    ("held", "lacking"),
    [
        (0, "CAP_BPF and CAP_PERFMON missing"),
        (BPF, "CAP_PERFMON missing"),
        (PERFMON, "CAP_BPF missing"),
        (ALL & ~SYS_ADMIN & ~BPF & ~PERFMON, "CAP_BPF and CAP_PERFMON missing"),
    ],
)
def test_capabilities(held: int, lacking: str, host: FakeHost) -> None:
    host.capabilities(held)
    told = missing()
    assert told.startswith(f"tracing is not permitted: {lacking}; ")
    assert "sudo" in told
    assert "CAP_BPF and CAP_PERFMON" in told


@pytest.mark.parametrize("held", [BPF | PERFMON, SYS_ADMIN, ALL])
def test_enough_capabilities(held: int, host: FakeHost) -> None:
    host.capabilities(held)
    assert probes.missing_capabilities() == ""


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.EPERM, "user namespace"),
        (errno.EACCES, "user namespace"),
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


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS])
def test_syscall_refused_by_seccomp(code: int, host: FakeHost) -> None:
    host.seccomp = 2
    host.capabilities(ALL)
    host.bpf_syscall(code)
    assert "seccomp filter" in missing()


def test_no_btf(host: FakeHost) -> None:
    host.no_btf()
    told = missing()
    assert "with --btf FILE or as " in told
    assert f"none-{os.uname().release}, " in told
    assert missing("given") == ""
    assert missing(None, "vmlinux") == ""


def test_unpacked_btf_is_found(host: FakeHost) -> None:
    assert btf.find_btf() is None  # the kernel's own is there
    host.no_btf()
    assert btf.find_btf() is None
    host.unpacked_btf.write_bytes(b"\x9f\xeb\1")
    assert btf.find_btf() == str(host.unpacked_btf)
    assert missing() == ""
    host.unpacked_btf.write_bytes(b"xz")
    assert missing() == f"{host.unpacked_btf}: there is no BTF in it"


def test_locked_memory(host: FakeHost) -> None:
    complaint = "Failed to bump RLIMIT_MEMLOCK (err = -1)"
    assert "ulimit -l unlimited" in missing(None, "first", complaint)
    host.no_btf()
    assert "--btf FILE" in missing(None, complaint)


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
    assert ("boot with lockdown=integrity" in missing()) == locked


def test_the_first_thing_that_is_missing_is_told(host: FakeHost) -> None:
    """What is nearest to the user comes first: each hides those behind it."""
    telling: dict[str, Callable[[], None]] = {
        "locked down": lambda: host.locked_down("none integrity [confidentiality]"),
        "--btf FILE": host.no_btf,
        "bpf(2) is refused": lambda: host.bpf_syscall(errno.EPERM),
        "CAP_BPF missing": lambda: host.capabilities(PERFMON),
    }
    for told, spoil in telling.items():
        spoil()
        assert told in missing()


@pytest.mark.parametrize(
    ("present", "problem", "told"),
    [
        ((), "cannot open shared object file: No such", "libbpf.so.1 is not installed"),
        (("libbpf.so.0",), "cannot open shared object file: No such", "1.0 or newer"),
        ((), "wrong ELF class: ELFCLASS32", "cannot be loaded: libbpf.so.1: wrong"),
    ],
)
def test_no_libbpf(
    present: tuple[str, ...],
    problem: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fake_dll(name: str, **_: object) -> None:
        if name not in present:
            raise OSError(f"{name}: {problem}")

    monkeypatch.setattr(ctypes, "CDLL", fake_dll)
    with pytest.raises(UnavailableError) as raised:
        Library()
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


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
        if f"attach {self.name}" in self.refused:
            raise LoadError(f"{self.name}: not attached")

    def close(self) -> None:
        type(self).closed += (self.name,)


Open = Callable[..., tiers.Opened]


@pytest.fixture
def open_tier(monkeypatch: pytest.MonkeyPatch) -> Open:
    """Of two tiers; the arguments are the objects that the host refuses."""

    def attach(program: Any, tier: tiers.Tier) -> None:
        program.attach()

    def opened(*refused: str, btf: str | None = None) -> tiers.Opened:
        monkeypatch.setattr(FakeProgram, "refused", refused)
        monkeypatch.setattr(FakeProgram, "closed", ())
        library: Any = FakeLibbpf()
        return tiers.open_tier(
            library,
            lambda tier: f"tool{tier.suffix}",
            lambda *_: None,
            attach,
            tiers=two,
            btf=btf,
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


def test_what_cannot_be_attached_is_passed_over(open_tier: Open) -> None:
    opened = open_tier("attach tool")
    assert opened.program.name == "tool_2"
    assert FakeProgram.closed == ("tool",)
    assert opened.failures == ["tier 1: tool: not attached"]


def test_an_error_of_ours_closes_the_program(
    open_tier: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(FakeProgram, "load", fail)
    with pytest.raises(ZeroDivisionError):
        open_tier()
    assert FakeProgram.closed == ("tool",)


def test_btf_that_is_none(open_tier: Open, tmp_path: Path) -> None:
    """Told as bad usage, once loading has failed."""
    bad, good = tmp_path / "bad", tmp_path / "good"
    bad.write_bytes(b"\x7fELF")
    good.write_bytes(b"\x9f\xeb")
    with pytest.raises(UsageError, match=r"--btf .*bad: there is no BTF in it"):
        open_tier("tool", "tool_2", btf=str(bad))
    with pytest.raises(UnavailableError):
        open_tier("tool", "tool_2", btf=str(good))


def test_no_tier_loads(open_tier: Open, host: FakeHost) -> None:
    with pytest.raises(UnavailableError) as raised:
        open_tier("tool", "tool_2")
    assert FakeProgram.closed == ("tool", "tool_2")
    told = "tier 1: tool: refused; tier 2: tool_2: refused; libbpf's warning"
    assert told in str(raised.value)
