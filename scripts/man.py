"""Writes the man pages from what the commands themselves say.

python3 scripts/man.py tcplife|tcpstates > docs/COMMAND.8   (`make man` does)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator

from tcplife.cli import tcplife, tcpstates
from tcplife.cli.options import Parser
from tcplife.columns.column import Column
from tcplife.columns.sessions import SESSION_COLUMNS
from tcplife.columns.states import STATE_COLUMNS

SEE_ALSO = ("ss (8)", "tcpdump (8)", "bpftool (8)", "tcp (7)")

TEXTS = {
    "tcplife": """\
A row for each TCP session of the host that ends: the process that owned it, both
addresses and ports, the application's bytes each way, and how long it lived. Sessions
of all network namespaces are shown, PIDs as the host's initial PID namespace counts.

Without
.B \\-a
only sessions that open and close while it traces are shown.
.B SIGINT
and
.B SIGTERM
end it; what was seen by then is still shown. What was lost is told on standard error.
""",
    "tcpstates": """\
A row for each change of a TCP socket's state, with the time spent in the state that it
leaves. A listener's LISTEN and CLOSE are shown as well.
.B SIGINT
and
.B SIGTERM
end it; what was seen by then is still shown. What was lost is told on standard error.
""",
}
STATUS = """\
0 if all went well, or the reader of the output has left; 1 where the host does not let
us trace or the output cannot be written; 2 for a bad option or value.
"""
OVERHEAD = """\
Programs run at state changes only, not per packet or per send and receive. What that
costs is measured by benchmarks/run.py in the source tree; README.md has figures.
"""


def roff(text: str) -> str:
    """Text as it is, on lines that begin with no command."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("%%", "%")
    return "\n".join(f"\\&{s}" if s[:1] in (".", "'") else s for s in text.split("\n"))


def options(parser: Parser) -> Iterator[str]:
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if a.option_strings]
        if not actions:
            continue
        yield f".SS {roff((group.title or '').capitalize())}"
        for action in actions:
            value = action.metavar or (
                "{" + ",".join(map(str, action.choices)) + "}" if action.choices else ""
            )
            names = ", ".join(f"\\fB{roff(name)}\\fR" for name in action.option_strings)
            shown = f"{names} \\fI{roff(str(value))}\\fR" if value else names
            yield f".TP\n{shown}\n{roff(expand(action))}"


def expand(action: argparse.Action) -> str:
    return (action.help or "") % {"default": action.default, "prog": "it"}


def fields(columns: Iterable[Column]) -> Iterator[str]:
    titles = set()
    for column in columns:
        if column.title in titles:
            continue
        titles.add(column.title)
        key = f" ({roff(column.key)})" if column.key else ""
        unit = f" [{roff(column.unit)}]" if column.unit else ""
        yield f".TP\n\\fB{roff(column.title)}\\fR{key}\n{roff(column.meaning)}{unit}"


def page(name: str) -> str:
    module = {"tcplife": tcplife, "tcpstates": tcpstates}[name]
    columns = {"tcplife": SESSION_COLUMNS, "tcpstates": STATE_COLUMNS}[name]
    parser = module._parser()
    summary = (parser.description or "").replace("\n", " ").rstrip(".")
    examples = module.EXAMPLES.partition(":")[2].strip("\n")
    other = "tcpstates (8)" if name == "tcplife" else "tcplife (8)"
    return "\n".join(
        [
            f'.TH {name.upper()} 8 "" "tcplife" "System administration"',
            f".SH NAME\n{name} \\- {roff(summary[0].lower() + summary[1:])}",
            f".SH SYNOPSIS\n.B {name}\n[\\fIOPTION\\fR]...",
            f".SH DESCRIPTION\n{TEXTS[name].rstrip()}",
            ".SH OPTIONS",
            *options(parser),
            ".SH FIELDS\nIn brackets, the name in JSON and the unit.",
            *fields(columns.values()),
            f".SH EXIT STATUS\n{STATUS.rstrip()}",
            f".SH OVERHEAD\n{OVERHEAD.rstrip()}",
            f".SH EXAMPLES\n.nf\n{roff(examples)}.fi",
            ".SH SEE ALSO\n" + ",\n".join(f".BR {s}" for s in (other, *SEE_ALSO)),
            "",
        ]
    ).replace(",\n.BR", " ,\n.BR")


if __name__ == "__main__":
    sys.stdout.write(page(sys.argv[1]))
