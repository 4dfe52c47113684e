"""Whether this host can be traced: what is needed, and what there is of it."""

from __future__ import annotations

import os
import platform

from tcplife import __version__
from tcplife.errors import UnavailableError
from tcplife.events import SESSION
from tcplife.kernel import btf, probes
from tcplife.kernel.holders import INITIAL_PIDS
from tcplife.kernel.libbpf import Library
from tcplife.kernel.program import LoadError, Program
from tcplife.kernel.tiers import TIERS


def report(btf_file: str | None) -> tuple[list[str], bool]:
    """Lines to paste into a bug report, and whether tracing works."""
    system = os.uname()
    python = platform.python_version()
    running = f"{system.sysname} {system.release} {system.machine}"
    lines = [f"tcplife {__version__}, Python {python}, {running}"]
    try:
        library = Library()
    except UnavailableError as error:
        lines.append(_line("no", f"libbpf: {error}"))
        return lines, False
    version = library.libbpf_version_string().decode()
    lines.append(_line("yes", f"libbpf {version} ({library.name})"))
    for need, probe in (
        ("CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN", probes.missing_capabilities),
        ("bpf(2)", probes.refused_syscall),
        ("kernel memory may be read (lockdown)", probes.locked_down),
    ):
        missing = probe()
        lines.append(_line("no", missing) if missing else _line("yes", need))
    lines.append(_btf_line(btf_file))
    if os.stat("/proc/self/ns/pid").st_ino != INITIAL_PIDS:
        lines.append(
            _line("note", "a container: PIDs are shown as the host counts them")
        )
    best = 0
    for tier in TIERS:
        text = f"tier {tier.number}: {tier.needs}"
        refusal = _refusal(library, SESSION.sender + tier.suffix, btf_file)
        best = best or (0 if refusal else tier.number)
        lines.append(
            _line("no", f"{text}: {refusal}") if refusal else _line("yes", text)
        )
    if best:
        lines.append(f"Tracing works here, with tier {best}.")
    return lines, bool(best)


def _line(answer: str, text: str) -> str:
    return f"{answer:<5} {text}"


def _btf_line(file: str | None) -> str:
    found = file or btf.find_btf()
    if found:
        return _line("yes", f"BTF: {found}")
    missing = probes.missing_btf()
    return _line("no", missing) if missing else _line("yes", f"BTF: {btf.KERNEL}")


def _refusal(library: Library, name: str, btf_file: str | None) -> str:
    """Why this object cannot be loaded and attached; empty if it can."""
    library.complaints.clear()
    try:
        program = Program(library, name, btf_file or btf.find_btf())
        try:
            program.load()
            program.attach()
        finally:
            program.close()
    except LoadError as error:
        return "; ".join([str(error), *library.complaints[:1]])
    return ""
