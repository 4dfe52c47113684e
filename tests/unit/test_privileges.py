"""What is given up once tracing has begun; the kernel is a fake."""

from __future__ import annotations

import ctypes
import os
import pwd
from typing import Any

import pytest

from tcplife.errors import UnavailableError
from tcplife.kernel import privileges
from tcplife.kernel.privileges import ENTER, IN_KERNEL, IN_PROC, give_up, kept_of

ADMIN = {"CAP_SYS_ADMIN"}
ALL = set(privileges.CAPABILITIES)


@pytest.mark.parametrize(
    ("held", "needed", "kept"),
    [
        (ALL, IN_KERNEL, IN_KERNEL),
        (ALL, IN_PROC, IN_PROC),
        (ALL, ENTER, ENTER),
        (ALL, set(), set()),
        (IN_KERNEL, IN_PROC, {"CAP_BPF"}),
        (IN_KERNEL, IN_KERNEL | ENTER, IN_KERNEL),
        (set(), IN_KERNEL, set()),
        # Before Linux 5.8, which has no CAP_BPF.
        (ADMIN, IN_KERNEL, ADMIN),
        (ADMIN | {"CAP_SYS_PTRACE"}, IN_PROC, ADMIN | {"CAP_SYS_PTRACE"}),
        (ADMIN, set(), set()),
        # One of two does not do.
        (ADMIN | {"CAP_BPF"}, IN_KERNEL, ADMIN | {"CAP_BPF"}),
        # What is not needed of them is not made up for.
        (ADMIN | IN_PROC, IN_PROC, IN_PROC),
    ],
)
def test_kept(held: set[str], needed: set[str], kept: set[str]) -> None:
    assert kept_of(set(held), set(needed)) == kept


class FakeKernel:
    """What the process asks of it, in order."""

    def __init__(self, patch: pytest.MonkeyPatch, refused: str = "") -> None:
        self.asked: list[tuple[object, ...]] = []
        self._refused = refused
        patch.setattr(ctypes, "CDLL", lambda *_, **__: self)
        patch.setattr(privileges, "effective", lambda: set(ALL))
        patch.setattr(os, "getuid", lambda: 0)
        for name in ("initgroups", "setresgid", "setresuid"):
            patch.setattr(os, name, self._call(name))

    def _call(self, name: str) -> Any:
        def call(*arguments: object) -> None:
            self.asked.append((name, *arguments))
            if name == self._refused:
                raise PermissionError(1, "Operation not permitted")

        return call

    def prctl(self, *arguments: int) -> int:
        self.asked.append(("prctl", *arguments[:2]))
        return 0

    def capset(self, header: Any, sets: Any) -> int:
        found = sets._obj
        assert (header._obj.version, header._obj.pid) == (0x20080522, 0)
        assert found.effective_low == found.permitted_low
        assert found.effective_high == found.permitted_high
        assert found.inheritable_low == found.inheritable_high == 0
        self.asked.append(("capset", found.effective_high << 32 | found.effective_low))
        return -1 if self._refused == "capset" else 0


# include/uapi/linux/prctl.h
KEEP, NO_NEW = ("prctl", 8, 1), ("prctl", 38, 1)
BPF, PERFMON = 1 << 39, 1 << 38
PROC = BPF | 1 << 19 | 1 << 2


def test_without_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = FakeKernel(monkeypatch)
    assert give_up(IN_KERNEL, None) == ["CAP_BPF", "CAP_PERFMON"]
    assert kernel.asked == [NO_NEW, ("capset", BPF | PERFMON)]


def test_as_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Capabilities are kept over it; groups change first, while that may be."""
    kernel = FakeKernel(monkeypatch)
    daemon = pwd.getpwnam("daemon")
    uid, gid = daemon.pw_uid, daemon.pw_gid
    give_up(IN_PROC, "daemon")
    assert kernel.asked == [
        KEEP,
        ("initgroups", "daemon", gid),
        ("setresgid", gid, gid, gid),
        ("setresuid", uid, uid, uid),
        NO_NEW,
        ("capset", PROC),
    ]


def test_as_who_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = FakeKernel(monkeypatch)
    assert give_up((), "root") == []
    assert kernel.asked == [KEEP, NO_NEW, ("capset", 0)]


@pytest.mark.parametrize("refused", ["initgroups", "setresgid", "setresuid"])
def test_not_permitted(refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeKernel(monkeypatch, refused)
    with pytest.raises(UnavailableError, match="--user daemon: that takes root"):
        give_up(IN_KERNEL, "daemon")


def test_never_goes_on_with_more(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeKernel(monkeypatch, "capset")
    with pytest.raises(OSError, match="capset"):
        give_up(IN_KERNEL, None)
