"""Cgroups to put processes into, in the cgroup2 file system."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tcplife.columns.cgroup_paths import mount_point

from .tracer import wait_until


@contextmanager
def folder(name: str) -> Iterator[Path]:
    """A cgroup of this test run's; it goes with all that was made in it."""
    path = root() / f"tcplife-test-{os.getpid()}-{name}"
    path.mkdir()
    try:
        yield path
    finally:
        for inner, _, _ in os.walk(path, topdown=False):
            remove(Path(inner))


def root() -> Path:
    found = mount_point()
    assert found, "the tests need a cgroup2 file system"
    return Path(found)


def below_root(path: Path) -> str:
    """As the column has it."""
    return f"/{path.relative_to(root())}"


def join(path: Path, *pids: int) -> None:
    for pid in pids:
        (path / "cgroup.procs").write_text(str(pid))


def remove(path: Path) -> None:
    """The processes in it have been waited for, which may be a little too early."""
    wait_until(lambda: _removed(path), f"{path} is busy")


def _removed(path: Path) -> bool:
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
