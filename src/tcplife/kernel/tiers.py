"""The ways of tracing, best first, and which of them this host allows.

A tier is a set of BPF objects and what they need; bpf/tier.h has how they differ.
open_tier() tries them in turn: loading and attaching is itself the probe, and costs
nothing where it works. Only when none does, probes.py finds out what is missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from tcplife.errors import UnavailableError, UsageError
from tcplife.kernel.btf import find_btf, readable
from tcplife.kernel.libbpf import Library
from tcplife.kernel.program import LoadError, Program


class Tier:
    """suffix: of the BPF objects' names."""

    __slots__ = ("needs", "number", "suffix")

    def __init__(self, number: int, needs: str) -> None:
        self.number = number
        self.needs = needs
        self.suffix = f"_{number}" if number > 1 else ""

    @property
    def has_storage(self) -> bool:
        """Socket storage, and iterators that go over all sockets."""
        return self.number == 1

    @property
    def has_kprobes(self) -> bool:
        """Attached to functions; else, to tracepoints."""
        return self.number == 4

    @property
    def is_preemptible(self) -> bool:
        """Whether another task may have its turn while a program runs.

        Since Linux 7.0 (include/linux/tracepoint.h, __DECLARE_TRACE()), which nothing
        but the version tells. Where it is wrong, it costs time, or changes on a host
        with too much to do; not more.
        """
        return not self.has_kprobes and int(os.uname().release.split(".")[0]) >= 7

    @property
    def has_variables(self) -> bool:
        """Global variables, which are mapped; else, bpf(2) reads and writes."""
        return self.number <= 2

    @property
    def has_ring(self) -> bool:
        """A ring buffer; else, a perf buffer for each processor."""
        return self.number <= 2


TIERS = (
    Tier(1, "tp_btf, socket storage, ring buffer (Linux 5.13)"),
    Tier(2, "tp_btf, a hash of sockets, ring buffer (Linux 5.8)"),
    Tier(3, "raw tracepoints, a hash of sockets, perf buffers (Linux 4.18)"),
    Tier(4, "kprobes, a hash of sockets, perf buffers"),
)


class Opened:
    """failures: what the tiers before it said."""

    __slots__ = ("failures", "program", "tier")

    def __init__(self, tier: Tier, program: Program, failures: list[str]) -> None:
        self.tier = tier
        self.program = program
        self.failures = failures


Step = Callable[[Program, Tier], None]


def load(
    library: Library, name: str, tier: Tier, set_up: Step, begin: Step, btf: str | None
) -> Program:
    """A program as open_tier() has it, of this tier. Raises LoadError."""
    program = Program(library, name, btf or find_btf())
    try:
        set_up(program, tier)
        program.load()
        begin(program, tier)
    except BaseException:
        program.close()
        raise
    return program


def open_tier(
    library: Library,
    name: Callable[[Tier], str],
    set_up: Step,
    begin: Step,
    *,
    tiers: Sequence[Tier] = TIERS,
    btf: str | None = None,
    asked: str = "",
) -> Opened:
    """The best of `tiers` that this host allows, with its program loaded and begun.

    name: of a tier's object; set_up: called with the program before it is loaded;
    begin: after that, to attach it; btf: the file that describes the kernel's types,
    instead of the kernel's own; asked: the options that other tiers do not have.
    Raises UnavailableError, with the reason and the remedy; UsageError for `btf`.
    """
    failures: list[str] = []
    for tier in tiers:
        try:
            program = load(library, name(tier), tier, set_up, begin, btf)
            return Opened(tier, program, failures)
        except LoadError as error:
            failures.append(f"tier {tier.number}: {error}")
    from tcplife.kernel import probes

    few = probes.missing_descriptors([*failures, *library.complaints])
    if few:
        raise UnavailableError(few)
    if btf and not readable(library, btf):
        raise UsageError(f"--btf {btf}: there is no BTF in it that can be read")
    missing = probes.missing(library, btf)
    if not missing:
        numbers = [tier.number for tier in tiers]
        missing = probes.explain(numbers, failures, library.complaints, asked)
    raise UnavailableError(missing)
