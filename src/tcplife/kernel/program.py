"""One BPF object: opened, set up, loaded, attached, closed."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tcplife.kernel.libbpf import IterInfo, IterOptions, Library, OpenOptions, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# More than a BPF iterator gives at once (kernel/bpf/bpf_iter.c: eight pages).
READ_SIZE = 1 << 20
BPF_FOLDER = os.path.join(os.path.dirname(os.path.dirname(__file__)), "bpf")


class LoadError(Exception):
    """The kernel or libbpf said no; probes.py finds out why."""


class Program:
    """An object of bpf/, by its name. Close it, and nothing of it stays behind."""

    def __init__(self, library: Library, name: str, btf: str | None = None) -> None:
        """btf: a file with the kernel's types, instead of the kernel's own."""
        with open(os.path.join(BPF_FOLDER, f"{name}.bpf.o"), "rb") as file:
            elf = file.read()
        self._library = library
        self._links: list[int] = []
        self._keys: dict[str, Sequence[bytes]] = {}
        self._values: dict[str, bytearray] = {}
        options = OpenOptions(ctypes.sizeof(OpenOptions), name.encode())
        if btf is not None:
            options.btf_custom_path = os.fsencode(btf)
        self._object = library.bpf_object__open_mem(
            elf, len(elf), ctypes.byref(options)
        )
        if not self._object:
            raise LoadError(f"{name}: {reason()}")
        self.name = name

    def _find_map(self, name: str) -> int | None:
        found: int | None = self._library.bpf_object__find_map_by_name(
            self._object, name.encode()
        )
        return found

    def _map(self, name: str) -> int:
        found = self._find_map(name)
        if not found:
            raise LoadError(f"{self.name}: no map {name}")
        return found

    def has_map(self, name: str) -> bool:
        return bool(self._find_map(name))

    def map_fd(self, name: str) -> int:
        return int(self._library.bpf_map__fd(self._map(name)))

    def value_size(self, name: str) -> int:
        return int(self._library.bpf_map__value_size(self._map(name)))

    def map_size(self, name: str) -> int:
        return int(self._library.bpf_map__max_entries(self._map(name)))

    def share_map(self, name: str, other: Program) -> None:
        self._library.bpf_map__reuse_fd(self._map(name), other.map_fd(name))

    def initial(self, section: str) -> memoryview:
        """The variables of .rodata or .bss, to be set before loading."""
        size = ctypes.c_size_t()
        address = self._library.bpf_map__initial_value(
            self._map(section), ctypes.byref(size)
        )
        array = (ctypes.c_char * size.value).from_address(address)
        return memoryview(array).cast("B")

    def initial_value(self, name: str) -> memoryview:
        """The only element of an array, to be set before loading."""
        value = self._values.setdefault(name, bytearray(self.value_size(name)))
        return memoryview(value)

    def set_size(self, name: str, entries: int) -> None:
        """Before loading: how many entries a map has room for."""
        self._library.bpf_map__set_max_entries(self._map(name), entries)

    def variables(self) -> memoryview:
        """The variables of .bss, once loaded, as the kernel has them."""
        # Not libbpf's own mapping, which only its skeletons take to the kernel's.
        return self.memory(".bss")

    def memory(self, name: str) -> memoryview:
        """An array that may be mapped, once loaded, as the kernel has it."""
        size = self.value_size(name) * self.map_size(name)
        return memoryview(mmap.mmap(self.map_fd(name), size))

    def set_keys(self, name: str, keys: Sequence[bytes]) -> None:
        """Has load() fill a map that is used as a set with these keys."""
        self.set_size(name, max(1, len(keys)))
        self._keys[name] = keys

    def load(self) -> None:
        if self._library.bpf_object__load(self._object):
            raise LoadError(f"{self.name}: {reason()}")
        for name, keys in self._keys.items():
            for key in keys:
                self._update(name, key, b"\1")
        for name, value in self._values.items():
            self._update(name, bytes(4), bytes(value))
        for program, name, _ in self._loaded():
            if _is_called(name):
                fd: int = self._library.bpf_program__fd(program)
                self._update("called", bytes(4), fd.to_bytes(4, sys.byteorder))

    def _update(self, name: str, key: bytes, value: bytes) -> None:
        if self._library.bpf_map_update_elem(self.map_fd(name), key, value, 0):
            raise LoadError(f"{self.name}: map {name}: {reason()}")

    def _programs(self) -> Iterator[tuple[int, str, str]]:
        """Each program's handle, its name, and that of its section."""
        library = self._library
        program = library.bpf_object__next_program(self._object, None)
        while program:
            name = library.bpf_program__name(program)
            section = library.bpf_program__section_name(program)
            yield program, name.decode(), section.decode()
            program = library.bpf_object__next_program(self._object, program)

    def _loaded(self) -> Iterator[tuple[int, str, str]]:
        for found in self._programs():
            if self._library.bpf_program__autoload(found[0]):
                yield found

    def leave_out(self, kind: str) -> None:
        """Has load() leave out the programs whose name or section begins like this."""
        for program, name, section in self._programs():
            if name.startswith(kind) or section.startswith(kind):
                self._library.bpf_program__set_autoload(program, False)

    def attach(self) -> None:
        """Attaches the programs to where their sections say; not iterators."""
        for program, name, section in self._loaded():
            if section.startswith("iter/") or _is_called(name):
                continue
            link = self._library.bpf_program__attach(program)
            if not link:
                raise LoadError(f"{self.name}: {reason()}")
            self._links.append(link)

    def detach(self) -> None:
        while self._links:
            self._library.bpf_link__destroy(self._links.pop())

    def iterate(self, program: str, over_map: str = "") -> int:
        """A file descriptor to read a BPF iterator's output from."""
        options = IterOptions(ctypes.sizeof(IterOptions))
        if over_map:
            info = IterInfo(map_fd=self.map_fd(over_map))
            options.link_info = ctypes.pointer(info)
            options.link_info_len = ctypes.sizeof(info)
        link = self._library.bpf_program__attach_iter(
            self._library.bpf_object__find_program_by_name(
                self._object, program.encode()
            ),
            ctypes.byref(options),
        )
        if not link:
            raise LoadError(f"{self.name}: {program}: {reason()}")
        fd = self._library.bpf_iter_create(self._library.bpf_link__fd(link))
        self._library.bpf_link__destroy(link)
        if fd < 0:
            raise LoadError(f"{self.name}: {program}: {reason()}")
        return int(fd)

    def close(self) -> None:
        self.detach()
        if self._object:
            self._library.bpf_object__close(self._object)
            self._object = None


def _is_called(name: str) -> bool:
    """Whether others of its object call a program; it is attached to nothing."""
    return name.startswith("called_")


class Struct:
    """A C struct in shared memory, by the layout of records/abi.py."""

    def __init__(self, memory: memoryview, fields: Iterable[tuple[str, str]]) -> None:
        self._memory = memory
        self._fields: dict[str, tuple[struct.Struct, int]] = {}
        at = 0
        for name, code in fields:
            form = struct.Struct("=" + code)
            self._fields[name] = form, at
            at += form.size

    def get(self, name: str) -> Any:
        form, at = self._fields[name]
        return form.unpack_from(self._memory, at)[0]

    def set(self, name: str, *values: int | bytes) -> None:
        form, at = self._fields[name]
        form.pack_into(self._memory, at, *values)

    def update(self, values: Mapping[str, int]) -> None:
        for name, value in values.items():
            self.set(name, value)

    def release(self) -> None:
        self._memory.release()


def read_iterator(fd: int) -> Iterator[memoryview]:
    """What a BPF iterator writes: whole records, in frames."""
    try:
        while True:
            try:
                data = os.read(fd, READ_SIZE)
            except BlockingIOError:  # it has walked a million objects in one go
                continue
            if not data:
                return
            yield memoryview(data)
    finally:
        os.close(fd)


def source(name: str, tier: int | None) -> str:
    """The C source of an object, with our headers where they are included."""
    text = _with_headers(f"{name}.bpf.c", set())
    return text if tier is None else f"#define TIER {tier}\n{text}"


def _with_headers(file_name: str, seen: set[str]) -> str:
    parts = []
    with open(os.path.join(BPF_FOLDER, file_name), encoding="ascii") as file:
        for line in file:
            if not line.startswith('#include "'):
                parts.append(line)
            elif (header := line.split('"')[1]) not in seen:
                seen.add(header)
                parts.append(_with_headers(header, seen))
    return "".join(parts)
