"""A tree of files in memory, and the archive that Linux unpacks of it at boot.

The format is `newc` (Documentation/driver-api/early-userspace/buffer-format.rst);
archives may follow one another in an initramfs, the later adding to the earlier.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple


class Node(NamedTuple):
    """A file's type and mode, and its contents or, of a link, where it points."""

    mode: int
    data: bytes = b""


Tree = dict[str, Node]  # by paths without a slash in front


def file(data: bytes, permissions: int = 0o644) -> Node:
    return Node(stat.S_IFREG | permissions, data)


def link(target: str) -> Node:
    return Node(stat.S_IFLNK | 0o777, target.encode())


def folder(permissions: int = 0o755) -> Node:
    return Node(stat.S_IFDIR | permissions)


def archive(tree: Mapping[str, Node]) -> bytes:
    """Folders that are not in the tree are made where a path needs them."""
    parts: list[bytes] = []
    for number, (path, node) in enumerate(_with_folders(tree), start=1):
        parts += _entry(number, path, node)
    parts += _entry(0, "TRAILER!!!", Node(0))
    return b"".join(parts)


def _with_folders(tree: Mapping[str, Node]) -> Iterator[tuple[str, Node]]:
    made: set[str] = set()
    for path in sorted(tree):
        parents = PurePosixPath(path).parents
        for parent in map(str, reversed(parents)):
            if parent != "." and parent not in made and parent not in tree:
                yield parent, folder()
            made.add(parent)
        yield path, tree[path]


def _entry(number: int, path: str, node: Node) -> Iterator[bytes]:
    name = path.encode() + b"\0"
    fields = (
        number,
        node.mode,
        0,  # owner
        0,  # group
        1,  # links
        0,  # time
        len(node.data),
        0,  # device's numbers
        0,
        0,  # those of a special file
        0,
        len(name),
        0,  # no checksum in this format
    )
    header = b"070701" + b"".join(b"%08x" % field for field in fields) + name
    yield header
    yield bytes(-len(header) % 4)
    yield node.data
    yield bytes(-len(node.data) % 4)
