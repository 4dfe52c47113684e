"""Whether this host can be traced: what is needed, and what there is of it."""

from __future__ import annotations

import os
import platform

from tcplife.errors import UnavailableError
from tcplife.kernel import btf, privileges, probes
from tcplife.kernel.libbpf import Library
from tcplife.kernel.owners import in_container
from tcplife.kernel.program import LoadError, Program
from tcplife.kernel.ring import PerfRing
from tcplife.kernel.tiers import TIERS, Tier, load
from tcplife.records.wire import SESSION
from tcplife.version import __version__


def report(btf_file: str | None, only: int | None = None) -> tuple[list[str], bool]:
    """Lines to paste into a bug report, and whether tracing works.

    btf_file: given by the user; only: the tier that has to work, instead of any.
    """
    system = os.uname()
    python = platform.python_version()
    running = f"{system.sysname} {system.release} {system.machine}"
    lines = [f"tcplife {__version__}, Python {python}, {running}"]
    try:
        library = Library()
    except UnavailableError as error:
        lines.append(_line("no", str(error)))
        return lines, False
    version = library.libbpf_version_string().decode()
    lines.append(_line("yes", f"libbpf {version} ({library.name})"))
    lacking = probes.missing_capabilities()
    needs = [("CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN", lacking)]
    if not lacking:  # else that is the reason
        needs.append(("bpf(2)", probes.refused_syscall()))
    permitted = not any(no for _, no in needs)
    needs.append(("kernel memory may be read (lockdown)", probes.locked_down()))
    needs.append(_btf(library, btf_file))
    lines += [_line("no", no) if no else _line("yes", yes) for yes, no in needs]
    best = None
    for tier in TIERS:
        if only in (None, tier.number):
            text = f"tier {tier.number}: {tier.needs}"
            no = _refusal(library, tier, btf_file) if permitted else "see above"
            best = best or (None if no else tier)
            lines.append(_line("no", f"{text}: {no}") if no else _line("yes", text))
    if not best and permitted:
        memory = probes.missing_memory(library.complaints)
        lines += [_line("no", memory)] if memory else []
    if best:
        lines += [_line("note", text) for text in _notes(best)]
        lines.append(f"Tracing works here, with tier {best.number}.")
    return lines, best is not None


def _line(answer: str, text: str) -> str:
    return f"{answer:<5} {text}"


def _btf(library: Library, given: str | None) -> tuple[str, str]:
    """Where the kernel's types are described; or what to do."""
    if given:
        bad = "" if btf.readable(library, given) else f"{given}: there is no BTF in it"
        return f"BTF: {given}", bad
    there = btf.KERNEL if os.path.exists(btf.KERNEL) else "in a vmlinux"
    return f"BTF: {btf.find_btf() or there}", probes.missing_btf(library)


def _refusal(library: Library, tier: Tier, btf_file: str | None) -> str:
    """Why a tier cannot be loaded and attached; empty if it can."""

    def begin(program: Program, tier: Tier) -> None:
        if not tier.has_ring:
            PerfRing(library, program.map_fd("events"), SESSION.stride).close()
        program.attach()

    told = len(library.complaints)
    try:
        name = SESSION.sender + tier.suffix
        load(library, name, tier, lambda *_: None, begin, btf_file).close()
    except LoadError as error:
        reasons = [str(error), *library.complaints[told:][:1]]
        if tier.has_kprobes:
            reasons.append(probes.missing_kprobes())
        return "; ".join(filter(None, reasons))
    return ""


def _notes(tier: Tier) -> list[str]:
    """What works less well than it could, with this tier."""
    notes = []
    container = in_container()
    if container:
        notes.append("a container: PIDs are those of the host, in -p as well")
    held = privileges.effective()
    searching = privileges.IN_KERNEL if tier.has_storage else privileges.IN_PROC
    wishes = [(searching, "the owners of all sessions still held are found")]
    if tier.has_storage:
        wishes.append((privileges.ENTER, "-a and --open know all network namespaces"))
    for needed, what in wishes:
        # What tracing itself takes is told of above.
        lacking = sorted(needed - held - privileges.IN_KERNEL)
        if container:
            lacking.append("the host's PID namespace")
        if lacking:
            notes.append(f"{what} only with {' and '.join(lacking)}")
    return notes
