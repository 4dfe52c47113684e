"""As much of ELF (64 bits, little endian) as is needed to find what a file needs."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_DYNAMIC = struct.Struct("<qQ")

# /usr/include/elf.h
_PT_LOAD = 1
_PT_DYNAMIC = 2
_PT_INTERP = 3
_DT_NEEDED = 1
_DT_STRTAB = 5


def is_elf(data: bytes) -> bool:
    return data.startswith(b"\x7fELF\x02\x01")


def needed(data: bytes) -> list[str]:
    """The shared libraries that an executable or a library names."""
    segments = list(_segments(data))
    names, table = [], None
    for kind, start, _, size in segments:
        if kind != _PT_DYNAMIC:
            continue
        for tag, value in _DYNAMIC.iter_unpack(data[start : start + size]):
            if tag == _DT_NEEDED:
                names.append(value)
            elif tag == _DT_STRTAB:
                table = value
    if table is None:
        return []
    for kind, start, address, size in segments:
        if kind == _PT_LOAD and address <= table < address + size:
            strings = start + table - address
            return [_string(data, strings + name) for name in names]
    raise ValueError("the dynamic string table is in no segment")


def interpreter(data: bytes) -> str | None:
    for kind, start, _, _ in _segments(data):
        if kind == _PT_INTERP:
            return _string(data, start)
    return None


def module_info(data: bytes) -> dict[str, str]:
    """What a kernel module says of itself; of keys that come twice, the last."""
    fields = _section(data, ".modinfo").split(b"\0")
    return dict(
        field.decode(errors="replace").split("=", 1)
        for field in fields
        if b"=" in field
    )


def _string(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()


def _segments(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Kind, place in the file, address, size in the file."""
    _, _, _, _, start, _, _, _, size, count, *_ = _HEADER.unpack_from(data)
    for n in range(count):
        kind, _, offset, address, _, length, _, _ = _SEGMENT.unpack_from(
            data, start + n * size
        )
        yield kind, offset, address, length


def _section(data: bytes, name: str) -> bytes:
    _, _, _, _, _, start, _, _, _, _, size, count, names = _HEADER.unpack_from(data)
    sections = [_SECTION.unpack_from(data, start + n * size) for n in range(count)]
    for section in sections:
        if _string(data, sections[names][4] + section[0]) == name:
            return data[section[4] : section[4] + section[5]]
    return b""
