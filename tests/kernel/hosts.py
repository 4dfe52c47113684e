"""Hosts with less than all: prefixes to run a tool with, and what is left of it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import tcplife

from .tracer import Tracer

PYTHON = os.path.realpath(sys.executable)
CONFINE = (PYTHON, "-IS", str(Path(__file__).with_name("confine.py")))
NOBODY = pwd.getpwnam("nobody")

# include/uapi/linux/capability.h
CAPABILITIES = {
    "bpf": 39,
    "perfmon": 38,
    "sys_admin": 21,
    "sys_ptrace": 19,
    "dac_read_search": 2,
}
TRACE = ("bpf", "perfmon")
# What looking for owners takes besides: in tier 1, the kernel does it.
SEARCH = ("dac_read_search", "sys_ptrace")


def minimum(tier: int) -> tuple[str, ...]:
    """With these, tcplife is right in all cases."""
    return TRACE if tier == 1 else TRACE + SEARCH


def mask(*names: str) -> int:
    """As /proc/PID/status has it."""
    return sum(1 << CAPABILITIES[name] for name in names)


def confined(*what: str) -> tuple[str, ...]:
    return (*CONFINE, *what, "--")


@lru_cache
def available_tiers() -> list[int]:
    """Those that this kernel takes, as --check has it; [0], which none is, for none.

    Asked when tests are collected, so that each tier is a case of its own.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tcplife", "--check"],
        check=False,
        capture_output=True,
        text=True,
    )
    words = [line.split() for line in done.stdout.splitlines()]
    tiers = [int(w[2].rstrip(":")) for w in words if w[:2] == ["yes", "tier"]]
    return tiers or [0]


class Copy:
    """The package where any user can read it."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)
        source = Path(tcplife.__file__).parent
        shutil.copytree(
            source, folder / "tcplife", ignore=shutil.ignore_patterns("__pycache__")
        )
        self._path = f"PYTHONPATH={folder}"
        self.tool = ("env", self._path, PYTHON, "-m", "tcplife")
        self.states = ("env", self._path, PYTHON, "-m", "tcplife.cli.tcpstates")

    def as_nobody(self, *capabilities: str) -> tuple[str, ...]:
        """A user with nothing but these."""
        caps = ",".join(["-all", *(f"+{name}" for name in capabilities)])
        return (
            *_memory(),
            *("setpriv", f"--reuid={NOBODY.pw_uid}", f"--regid={NOBODY.pw_gid}"),
            *("--clear-groups", f"--inh-caps={caps}", f"--ambient-caps={caps}"),
            f"--bounding-set={caps}",
        )


def _memory() -> tuple[str, ...]:
    """Linux before 5.11 counts BPF's memory as locked memory."""
    release = tuple(map(int, os.uname().release.split(".")[:2]))
    return ("prlimit", "--memlock=unlimited:unlimited") if release < (5, 11) else ()


def refused(*argv: str) -> tuple[int, str]:
    """The exit status of a tool that does not trace, and its one line."""
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert done.stdout == "", argv
    (line,) = done.stderr.splitlines()
    return done.returncode, line


def checked(*argv: str) -> tuple[int, list[str]]:
    """The exit status of --check, and its lines."""
    done = subprocess.run(
        [*argv, "--check"], check=False, capture_output=True, text=True, timeout=60
    )
    assert len(done.stderr.splitlines()) == (1 if done.returncode else 0)
    return done.returncode, done.stdout.splitlines()


def status(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/status").read_text()
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def some_are_hidden() -> bool:
    """Whether there are processes that not even root may look into."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            os.stat(f"/proc/{pid}/ns/net")
        except PermissionError:
            return True
        except OSError:  # gone by now
            continue
    return False


def says(tracer: Tracer, words: str) -> bool:
    return tracer.wait_for(lambda: any(words in line for line in tracer.errors))


def children(pid: int) -> list[int]:
    """Its processes, as /proc has them: those of a PID namespace, too."""
    found = []
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            if f"\nPPid:\t{pid}\n" in path.read_text():
                found.append(int(path.parent.name))
        except OSError:  # gone by now
            continue
    return found
