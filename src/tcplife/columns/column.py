"""A column: what it shows, and how it is made of a record.

A column's `of` is an expression over a record's fields (records/wire.py), and `value`
one over its result, `key`, and the functions of values.py; compile.py makes
one function of those that a layout shows. Because rows are alike, what was made
of a key is remembered where `memo`, an expression over the fields, is true; else
the value, which then has to be a number or safe text, is shown as it is. Besides
the fields, `of` may use:

    born_us      the lifespan that the layout shows
    wall_offset  nanoseconds from the records' clock to the wall clock
    start_us     the time of the first row, in microseconds

and `value` may use cgroup_path(id), which knows the host's.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Lookups = Mapping[str, Callable[[Any], Any]]


class Column:
    """key: in JSON; empty for a column of tables only.

    json_of, json_value: what JSON shows, where that isn't what tables show.
    object_value: what the Python API has, of json_of; where that isn't as in JSON.
    form: how tables show it that the user puts together (-x, -o), and its title;
    wide_form: with -w. nullable: a value that isn't always remembered may be None.
    """

    __slots__ = (
        "form",
        "json_of",
        "json_value",
        "key",
        "kind",
        "meaning",
        "memo",
        "nullable",
        "object_value",
        "of",
        "title",
        "unit",
        "value",
        "wide_form",
    )

    def __init__(
        self,
        title: str,
        key: str,
        unit: str,
        meaning: str,
        of: str,
        value: str = "key",
        memo: str = "True",
        json_of: str = "",
        json_value: str = "",
        object_value: str = "",
        form: str = "%s",
        wide_form: str = "",
        nullable: bool = False,
        kind: str = "text",
    ) -> None:
        self.title = title
        self.key = key
        self.unit = unit
        self.meaning = meaning
        self.of = of
        self.value = value
        self.memo = memo
        self.json_of = json_of or of
        self.json_value = json_value or value
        self.object_value = object_value or self.json_value
        self.form = form
        self.wide_form = wide_form or form
        self.nullable = nullable
        self.kind = kind

    def unknown(self) -> Column:
        """The same column, of records that lack what it shows."""
        return Column(
            self.title,
            self.key,
            self.unit,
            self.meaning,
            of="0",
            value="None",
            form=self.form,
            wide_form=self.wide_form,
            kind=self.kind,
        )

    def marked(self, form: str) -> Column:
        """A lifespan's column, for sessions that may be older or still open."""
        value = self.value.replace("key", "key[0]")
        return Column(
            self.title,
            self.key,
            self.unit,
            self.meaning,
            of=f"({self.of}, before or not end)",
            value=f"at_least('{form}' % ({value}), key[1])",
            memo="False",
            form=self.form,
        )


if TYPE_CHECKING:
    Columns = dict[str, Column]
