"""The BPF objects of all tiers, as they are committed: what is common to them, and
the limits of the kernels that they are for."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "src/tcplife/bpf"

# What user space shares with the object, whatever the tier.
SHARED = ("owner", "config", "counts", "control")
STRUCTS = {
    "tcplife": (*SHARED, "session_event"),
    "tcplife_full": (*SHARED, "session_event", "story", "owner_more"),
    "tcpstates": (*SHARED, "state_event"),
}
SUFFIXES = {1: "", 2: "_2", 3: "_3", 4: "_4"}
OLDER = [
    (f"{name}{SUFFIXES[tier]}", tier)
    for name in STRUCTS
    for tier in SUFFIXES
    if tier > 2
]

# Before Linux 5.2 (include/linux/bpf_common.h, BPF_MAXINSNS).
INSTRUCTIONS = 4096
# Before Linux 5.2, none; libbpf makes maps of these sections.
VARIABLES = (".bss", ".data", ".rodata")
# include/uapi/linux/elf.h
SHT_SYMTAB, SHT_NOBITS, SHF_EXECINSTR = 2, 8, 4
STT_OBJECT, STT_FUNC = 1, 2


class Section(NamedTuple):
    name: str
    kind: int
    flags: int
    size: int
    data: bytes


def sections(path: Path) -> list[Section]:
    """Of a 64-bit little-endian ELF file."""
    elf = path.read_bytes()
    table, entry, count, names = struct.unpack_from("<40xQ10xHHH", elf)
    headers = [
        struct.unpack_from("<IIQQQQ", elf, table + n * entry) for n in range(count)
    ]
    strings = headers[names][4]
    found = []
    for name, kind, flags, _, at, size in headers:
        start = strings + name
        text = elf[start : elf.index(b"\0", start)].decode()
        data = b"" if kind == SHT_NOBITS else elf[at : at + size]
        found.append(Section(text, kind, flags, size, data))
    return found


def symbols(path: Path) -> Iterator[tuple[str, str, int, int, int]]:
    """Each symbol's name, section, type, address, and size."""
    found = sections(path)
    table = next(section for section in found if section.kind == SHT_SYMTAB)
    names = next(section for section in found if section.name == ".strtab").data
    for name, info, _, index, at, size in struct.iter_unpack("<IBBHQQ", table.data):
        if index < len(found):
            text = names[name : names.index(b"\0", name)].decode()
            yield text, found[index].name, info & 15, at, size


def programs(path: Path) -> Iterator[tuple[str, int]]:
    """Each program's section, and how many instructions it has."""
    for _, section, kind, _, size in symbols(path):
        if kind == STT_FUNC:
            yield section, size // 8


def layouts(name: str, *structs: str) -> str:
    """As scripts/layout.py reads them from an object's BTF."""
    done = subprocess.run(
        [
            *(sys.executable, "scripts/layout.py"),
            f"{FOLDER}/{name}.bpf.o:{','.join(structs)}",
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


@pytest.mark.parametrize("name", STRUCTS)
def test_records_are_the_same_in_all_tiers(name: str) -> None:
    texts = {layouts(name + suffix, *STRUCTS[name]) for suffix in SUFFIXES.values()}
    assert len(texts) == 1


@pytest.mark.parametrize("name", ["tcplife", "tcplife_full"])
def test_what_is_parked_ends_alike(name: str) -> None:
    """In the tiers in which user space reads it; it goes by the end."""
    texts = [layouts(f"{name}_{tier}", "parked") for tier in (2, 3, 4)]
    assert len(set(texts)) == 1
    ends = {text.partition('("more", ')[2].partition("\n")[2] for text in texts}
    assert ends == {layouts("tcplife_2", "parked").partition('"0s"),\n')[2]}


@pytest.mark.parametrize(("name", "tier"), OLDER)
def test_programs_are_short_enough_for_old_kernels(name: str, tier: int) -> None:
    found = list(programs(FOLDER / f"{name}.bpf.o"))
    kind = "raw_tp/" if tier == 3 else "kprobe/"
    assert {section.startswith(kind) for section, _ in found} == {True}
    assert len(found) == (11 if tier == 3 else 2)
    assert all(0 < size <= INSTRUCTIONS for _, size in found), found
    # All is inlined: calls between programs came with Linux 4.16, and global
    # functions later.
    code = [s for s in sections(FOLDER / f"{name}.bpf.o") if s.flags & SHF_EXECINSTR]
    assert sum(s.size for s in code) == 8 * sum(size for _, size in found)


@pytest.mark.parametrize(("name", "tier"), OLDER)
def test_no_variables_on_old_kernels(name: str, tier: int) -> None:
    found = [
        section.name
        for section in sections(FOLDER / f"{name}.bpf.o")
        if section.name.startswith(VARIABLES) and section.size
    ]
    assert found == []


def test_the_other_tiers_have_variables() -> None:
    """So that the test above can fail."""
    names = {section.name for section in sections(FOLDER / "tcplife_2.bpf.o")}
    assert {".bss", ".rodata"} <= names


@pytest.mark.parametrize(
    "name",
    [
        path.name
        for path in sorted(FOLDER.glob("tcp*.bpf.o"))
        if "_3" not in path.name and "_4" not in path.name
    ],
)
def test_variables_begin_with_what_is_shared(name: str) -> None:
    """User space finds them at the beginning of their sections."""
    found = {
        (section, at): variable
        for variable, section, kind, at, _ in symbols(FOLDER / name)
        if kind == STT_OBJECT
    }
    assert found[".bss", 0] == "shared"
    assert found[".rodata", 0] == "config"
