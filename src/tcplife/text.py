"""Bytes that others chose, made safe for where they go."""

from __future__ import annotations

# What a CSV field may not hold bare (RFC 4180, section 2).
_CSV_SPECIAL = frozenset(',"\r\n')


def printable(raw: bytes) -> str:
    r"""Text that a terminal only prints.

    Everything that is not printable, undecodable bytes included, becomes an
    escape: `\x1b`, `\u202e`.
    """
    text = raw.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def csv_field(text: str) -> str:
    """`text` as a field of a CSV line, quoted where it has to be."""
    if _CSV_SPECIAL.isdisjoint(text):
        return text
    return '"' + text.replace('"', '""') + '"'


def json_string(raw: bytes) -> str:
    r"""A JSON string in ASCII; undecodable bytes show as `\\x9b` in it."""
    from json import dumps  # 5 ms that only --json should pay

    return dumps(raw.decode("utf-8", "backslashreplace"))
