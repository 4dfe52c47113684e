"""What user space shares with the programs of an object, while they run.

Tiers 1 and 2 have it in global variables, which are mapped; the others in arrays of
one element (bpf/tier.h).
"""

from __future__ import annotations

import ctypes
import struct

from tcplife.kernel.libbpf import Library
from tcplife.kernel.program import Program, Struct
from tcplife.records import abi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Shared(Protocol):
        def counts(self) -> tuple[int, ...]:
            """The fields of struct counts, in their order."""

        def set(self, name: str, *values: int) -> None:
            """Sets a field of struct control."""

        def close(self) -> None: ...


_COUNTS = struct.Struct("=" + "".join(code for _, code in abi.COUNTS))
_CONTROL = struct.Struct("=" + "".join(code for _, code in abi.CONTROL))


class Mapped:
    """The object's .bss, as the kernel has it."""

    def __init__(self, program: Program) -> None:
        self._memory = program.variables()
        self._control = Struct(self._memory[_COUNTS.size :], abi.CONTROL)

    def counts(self) -> tuple[int, ...]:
        return _COUNTS.unpack_from(self._memory)

    def set(self, name: str, *values: int) -> None:
        self._control.set(name, *values)

    def close(self) -> None:
        self._control.release()
        self._memory.release()


class Copied:
    """Arrays, by bpf(2). Of struct control, the kernel side only reads."""

    def __init__(self, library: Library, program: Program) -> None:
        self._library = library
        self._counts_fd = program.map_fd("counts_array")
        self._control_fd = program.map_fd("control_array")
        self._counts = ctypes.create_string_buffer(_COUNTS.size)
        self._buffer = ctypes.create_string_buffer(_CONTROL.size)
        library.bpf_map_lookup_elem(self._control_fd, _FIRST, self._buffer)
        self._control = Struct(memoryview(self._buffer), abi.CONTROL)

    def counts(self) -> tuple[int, ...]:
        self._library.bpf_map_lookup_elem(self._counts_fd, _FIRST, self._counts)
        return _COUNTS.unpack_from(self._counts)

    def set(self, name: str, *values: int) -> None:
        self._control.set(name, *values)
        self._library.bpf_map_update_elem(self._control_fd, _FIRST, self._buffer, 0)

    def close(self) -> None:
        self._control.release()


_FIRST = bytes(4)


def initial_config(program: Program) -> Struct:
    """`struct config`, to be set before loading."""
    if program.has_map("config_array"):
        return Struct(program.initial_value("config_array"), abi.CONFIG)
    return Struct(program.initial(".rodata"), abi.CONFIG)


def initial_control(program: Program) -> Struct:
    """`struct control`, to be set before loading."""
    if program.has_map("control_array"):
        return Struct(program.initial_value("control_array"), abi.CONTROL)
    return Struct(program.initial(".bss")[_COUNTS.size :], abi.CONTROL)


def open_shared(library: Library, program: Program) -> Shared:
    if program.has_map("control_array"):
        return Copied(library, program)
    return Mapped(program)
