"""The kernels that the tests run on: declared here and nowhere else.

Debian's kernels for clouds, which need no initramfs of their own to boot in QEMU.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

# From where the kernels come. Each is asked for all of them: the same kernel may be
# backported, and the archive's suites change faster than this file.
SUITES = ("bullseye-security", "bookworm-security", "trixie-backports", "sid")


class Kernel(NamedTuple):
    """A line of kernels, of which the newest is taken.

    version: how its number begins; a single number is for the newest of all.
    tiers: those of src/tcplife/kernel/tiers.py that must work there.
    ci: whether .ci/run runs it.
    """

    version: str
    arch: str
    tiers: tuple[int, ...]
    ci: bool


ALL = (1, 2, 3, 4)
NO_STORAGE = (2, 3, 4)  # of sockets, in tracing programs: from 5.11

KERNELS = (
    Kernel("5.10", "amd64", NO_STORAGE, ci=True),
    Kernel("6.1", "amd64", ALL, ci=True),
    Kernel("6.12", "amd64", ALL, ci=False),
    Kernel("6.18", "amd64", ALL, ci=False),
    Kernel("7", "amd64", ALL, ci=True),
    Kernel("5.10", "arm64", NO_STORAGE, ci=False),
    Kernel("6.1", "arm64", ALL, ci=True),
    Kernel("7", "arm64", ALL, ci=False),
)
ENOUGH = 3  # that must have run, when the archive lacks some

MACHINES = {"amd64": "x86-64", "arm64": "arm64"}


def chosen(version: str | None, arch: str | None, *, ci: bool) -> list[Kernel]:
    return [
        kernel
        for kernel in KERNELS
        if version in (None, kernel.version)
        and arch in (None, kernel.arch)
        and (kernel.ci or not ci)
    ]


# ---- packages ---------------------------------------------------------------


def pattern(kernel: Kernel) -> str:
    """What to search the archive for."""
    number = re.escape(kernel.version)
    # From 6.19 on the kernel is in linux-binary, its modules in linux-modules.
    return rf"^linux-(image|binary|modules)-{number}[.].*-cloud-{kernel.arch}$"


def releases(kernel: Kernel, names: Iterable[str]) -> dict[str, list[str]]:
    """The releases among these packages, newest first, and each one's packages."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        if match := re.fullmatch(
            rf"linux-(image|binary|modules)-"
            rf"({re.escape(kernel.version)}\.\d.*)-cloud-{kernel.arch}",
            name,
        ):
            found.setdefault(match[2], {})[match[1]] = name
    return {
        release: [kinds[kind] for kind in kinds if kind != "image" or len(kinds) == 1]
        for release, kinds in sorted(found.items(), key=_newness, reverse=True)
        if kinds.keys() != {"modules"}
    }


def _newness(item: tuple[str, object]) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", item[0])]


# ---- documentation ----------------------------------------------------------


def table() -> str:
    """For README.md; a test holds that to this file."""
    lines = [
        "| Linux | Machine | Tiers | In CI |",
        "|---|---|---|---|",
    ]
    for kernel in KERNELS:
        version = f"{kernel.version}, the newest"
        if "." in kernel.version:
            version = kernel.version
        tiers = ", ".join(map(str, kernel.tiers))
        ci = "yes" if kernel.ci else ""
        lines.append(f"| {version} | {MACHINES[kernel.arch]} | {tiers} | {ci} |")
    return "\n".join(lines) + "\n"
