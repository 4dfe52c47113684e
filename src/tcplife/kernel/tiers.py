"""The ways of tracing, best first, and which of them this host allows.

A tier is a kernel program and what it needs. open_tier() tries them in turn:
loading is itself the probe, and costs nothing where it works. Only when none
does, probes.py finds out what is missing.
"""

from __future__ import annotations

from collections.abc import Callable

from tcplife.errors import UnavailableError
from tcplife.kernel.libbpf import Library
from tcplife.kernel.program import LoadError, Program


class Tier:
    """suffix: of the BPF objects' names."""

    __slots__ = ("needs", "number", "suffix")

    def __init__(self, number: int, needs: str, suffix: str) -> None:
        self.number = number
        self.needs = needs
        self.suffix = suffix


TIERS = (Tier(1, "tp_btf, socket storage, ring buffer (Linux 5.12)", ""),)


def open_tier(
    library: Library,
    name: str,
    set_up: Callable[[Program], None],
    *,
    attach: bool,
) -> tuple[Tier, Program]:
    """The best tier that this host allows, with its program loaded and attached.

    name: the object's; set_up: called with the program before it is loaded.
    Raises UnavailableError, with the reason and the remedy.
    """
    failures = []
    for tier in TIERS:
        try:
            program = Program(library, name + tier.suffix)
            try:
                set_up(program)
                program.load()
                if attach:
                    program.attach()
            except LoadError:
                program.close()
                raise
            return tier, program
        except LoadError as error:
            failures.append(f"tier {tier.number}: {error}")
    from tcplife.kernel import probes

    raise UnavailableError(probes.explain(failures, library.complaints))
