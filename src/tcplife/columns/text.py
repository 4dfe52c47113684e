"""Text that others chose, made safe for where it goes."""

from __future__ import annotations

# What a CSV field may not hold bare (RFC 4180, section 2).
_CSV_SPECIAL = frozenset(',"\r\n')


def printable(text: str) -> str:
    r"""Text that a terminal only prints: the rest as escapes, `\x1b`, `\u202e`."""
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


def json_value(value: str | float | None) -> str:
    """A JSON string (in ASCII), number or null."""
    if isinstance(value, str):
        from json import dumps  # 5 ms that only --json should pay

        return dumps(value)
    return "null" if value is None else str(value)
