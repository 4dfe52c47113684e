"""The command tcplife: a row for each TCP session that ends."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from functools import partial

from tcplife.cli import host, messages, modes
from tcplife.cli import options as shared
from tcplife.columns import styles
from tcplife.columns.sessions import EXTENDED, SESSION_COLUMNS
from tcplife.errors import UsageError
from tcplife.filters import parse
from tcplife.records import abi
from tcplife.records.wire import SESSION, STORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcplife.columns.column import Column
    from tcplife.recording.merge import RecordingSource
    from tcplife.records.wire import Wire

    Columns = dict[str, Column]

NAME = "tcplife"

EXAMPLES = """
examples:
  tcplife             # all sessions that open and close from now on
  tcplife -D 443      # those to port 443
  tcplife -L 80,8000-8999
                      # those to these ports of this host
  tcplife -p 181      # those of process 181
  tcplife -wT         # wide enough for IPv6, with the time of day
  tcplife -stT        # CSV, with times
  tcplife --json -c 5 # five objects, and leave
  tcplife -x          # how each began and ended, and what the network did to it
  tcplife -o +rtt_ms,retrans
                      # these columns behind the usual ones
  tcplife --end failed
                      # what did not end well
  tcplife -a          # also sessions that are open already, or still at the end
  tcplife --open -x   # those that are open now, and leave
  tcplife --record web.tcplife -L 443
                      # keep all there is to know of them
  tcplife --replay web.tcplife -x --end failed
                      # look at it later, elsewhere, without root
"""

_STYLES = {
    "bcc": styles.LIFE_NARROW,
    "bt": styles.LIFE_BT,
    "libbpf": styles.LIFE_LIBBPF,
}
_WIDE_STYLES = {"bcc": styles.LIFE_WIDE, "libbpf": styles.LIFE_LIBBPF_WIDE}


def main() -> int:
    return messages.run(NAME, _command)


def _command(arguments: Sequence[str]) -> None:
    options = _parser().parse_args(arguments)
    if options.columns == "help":
        messages.print_text(_columns_list())
        return
    recorded = modes.mode(options)
    if recorded == modes.REPLAY:
        from tcplife.cli.replay import replay

        born = _styled(options).born
        replay(
            NAME,
            STORY,
            options,
            SESSION_COLUMNS,
            partial(_replayed, options),
            born=born,
        )
        return
    columns, layout, wire = _shown(options)
    if options.ebpf:
        host.print_source(wire.sender, options.tier)
        return
    if options.check:
        host.check(options)
        return
    if recorded == modes.RECORD:
        from tcplife.cli.record import record

        whole_life = layout.born == "life_us"
        record(NAME, STORY, options, scope=_scope(options), whole_life=whole_life)
        return
    if modes.summarizes(options):
        from tcplife.cli.summarize import summarize

        whole_life = layout.born == "life_us"
        summarize(NAME, STORY, options, scope=_scope(options), whole_life=whole_life)
        return
    host.trace(
        NAME,
        wire,
        options,
        lambda: [host.open_lines(options, wire, columns, layout)],
        scope=_scope(options),
        whole_life=layout.born == "life_us",
        paths=any("cgroup_path" in c.value for c in _used(options, columns, layout)),
    )


def _scope(options: argparse.Namespace) -> str:
    return "open" if options.open else "all" if options.all else "new"


def _shown(
    options: argparse.Namespace,
) -> tuple[dict[str, Column], styles.Layout, Wire]:
    """The columns there are, those to show, and the records that have them."""
    columns = SESSION_COLUMNS
    layout = _layout(options)
    if not options.json and _scope(options) != "new":
        columns, layout = styles.at_least(columns, layout)
    story = (
        _scope(options) != "new"
        or modes.filter_from(options).needs_story()
        or any(map(_of_story, _used(options, columns, layout)))
    )
    return columns, layout, STORY if story else SESSION


def _replayed(
    options: argparse.Namespace, columns: Columns, replayed: RecordingSource
) -> tuple[Columns, styles.Layout]:
    """What to show of recordings, and how."""
    layout = _layout(options, columns)
    if len(replayed.hosts) > 1 and not options.columns:
        layout = styles.with_host(layout, max(map(len, replayed.hosts)))
    if not options.json and any(file.scope != "new" for file in replayed.files):
        return styles.at_least(columns, layout)
    return columns, layout


def _used(
    options: argparse.Namespace, columns: dict[str, Column], layout: styles.Layout
) -> Iterable[Column]:
    if options.json:
        return columns.values()
    return [columns[name] for name in layout.columns]


def _of_story(column: Column) -> bool:
    """Whether a column needs more than the first part of the record."""
    words = column.of.replace("(", " ").replace(")", " ").replace(",", " ").split()
    return any(name in words for name, _ in abi.STORY)


def _columns_list() -> str:
    lines = []
    for name, column in SESSION_COLUMNS.items():
        if column.key or name == "elapsed":
            unit = f" [{column.unit}]" if column.unit else ""
            lines.append(f"{name:<14} {column.meaning}{unit}\n")
    return "".join(lines)


def _column_names(
    text: str, usual: Sequence[str], columns: dict[str, Column]
) -> list[str]:
    """The columns in `pid,ms`; behind the usual ones in `+rtt_ms`."""
    aliases = {column.key: name for name, column in columns.items() if column.key}
    aliases.update((name, name) for name in (*aliases.values(), "elapsed"))
    names = [] if not text.startswith("+") else list(usual)
    for item in text.lstrip("+").lower().split(","):
        item = item.strip().lstrip("+")
        if item not in aliases:
            raise UsageError(
                f"-o/--columns {text}: {item!r} is not a column;"
                " `--columns help` lists them"
            )
        if aliases[item] in names:
            raise UsageError(f"-o/--columns {text}: {item} is there already")
        names.append(aliases[item])
    return names


def _parser() -> shared.Parser:
    parser = shared.new_parser(
        NAME,
        "Traces TCP sessions: a row for each that ends, with its owner, addresses,"
        "\nbytes and lifespan.",
        shared.columns_help(SESSION_COLUMNS) + EXAMPLES,
    )
    _add_filters(shared.add_filter_options(parser))
    output = shared.add_layout_options(parser)
    output.add_argument(
        "-x",
        "--extended",
        action="store_true",
        help="how each session began and ended, and its network (160 columns wide)",
    )
    output.add_argument(
        "-o",
        "--columns",
        metavar="NAME,...",
        default=None,
        action=shared.Joined,
        help="these columns; +NAME,... adds them to the usual ones; help lists them",
    )
    output.add_argument(
        "--style",
        choices=sorted(_STYLES),
        default="bcc",
        help="columns and lifespan as bcc's, bpftrace's (bt) or libbpf-tools'"
        " tcplife has them; a lifespan counts from ESTABLISHED, with bt from the"
        " first state, handshake included (default: bcc)",
    )
    sessions = parser.add_argument_group("sessions")
    which = sessions.add_mutually_exclusive_group()
    which.add_argument(
        "-a",
        "--all",
        action="store_true",
        help="sessions that are open already as well, and at exit and on SIGUSR1 those"
        " that still are; > marks a lifespan of which only a part was seen",
    )
    which.add_argument(
        "--open",
        action="store_true",
        help="list the sessions that are open now, and leave",
    )
    shared.add_statistics_options(parser, states=False)
    shared.add_recording_options(parser)
    shared.add_run_options(parser)
    shared.add_host_options(parser)
    return parser


def _add_filters(group: argparse._ArgumentGroup) -> None:
    for option, metavar, parser, text in (
        ("--laddr", "ADDR[/BITS],...", parse.parse_subnets, "local addresses"),
        ("--raddr", "ADDR[/BITS],...", parse.parse_subnets, "remote addresses"),
        ("--comm", "NAME,...", parse.parse_comms, "names of the owner's process"),
        ("-u/--uid", "USER,...", None, "the owner's users"),
        (
            "--netns",
            "NAMESPACE,...",
            None,
            "network namespaces: of a PID, a path, a name of ip-netns(8), or self",
        ),
        (
            "--cgroup",
            "PATH",
            None,
            "the owner's cgroup (v2), or one below it",
        ),
        ("--dir", "in|out", parse.parse_direction, "accepted here, or connected"),
        (
            "--end",
            "WHAT,...",
            parse.parse_ends,
            "how they ended, as END shows it; failed: all but closed",
        ),
        ("--min-ms", "N", parse.parse_amount, "that lived at least this long"),
        ("--min-bytes", "N", parse.parse_size, "TX and RX in all, at least, as in 10k"),
        (
            "--slower-connect",
            "MS",
            parse.parse_amount,
            "whose connect took this long, or failed after it",
        ),
    ):
        group.add_argument(
            *option.split("/"),
            metavar=metavar,
            # Some only the host can tell that is traced: modes.filter_from().
            type=partial(parser, option) if parser else str,
            default=argparse.SUPPRESS,
            help=text,
        )


def _layout(
    options: argparse.Namespace, columns: dict[str, Column] = SESSION_COLUMNS
) -> styles.Layout:
    modes.check_json(options)
    style = _styled(options)
    if not options.extended and options.columns is None:
        return style
    if options.json:
        raise UsageError("--json has all columns: leave out -x and -o")
    usual = [*style.columns, *EXTENDED] if options.extended else style.columns
    names = usual
    if options.columns is not None:
        names = _column_names(options.columns, usual, columns)
        for name, given, option in (
            ("time", options.time, "-T/--time"),
            ("elapsed", options.timestamp, "-t/--timestamp"),
        ):
            if given and name in names:
                raise UsageError(f"{option} with -o {name}: leave one of them out")
    return styles.chosen(
        columns,
        names,
        wide=options.wide,
        csv=options.csv,
        born=style.born,
    )


def _styled(options: argparse.Namespace) -> styles.Layout:
    if options.csv:
        if options.style != "bcc":
            raise UsageError(f"--style {options.style} has no -s/--csv: leave one out")
        return styles.LIFE_CSV
    if options.wide:
        if options.style not in _WIDE_STYLES:
            raise UsageError(f"--style {options.style} has no -w/--wide: leave one out")
        return _WIDE_STYLES[options.style]
    return _STYLES[options.style]
