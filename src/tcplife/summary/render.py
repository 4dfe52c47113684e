"""Summaries as tables, histograms and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence

from tcplife.columns.text import csv_field, printable
from tcplife.summary.histogram import Histogram
from tcplife.summary.keys import KEYS, OTHER, QUANTITIES
from tcplife.summary.summary import Group, Summary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tcplife.summary.keys import Key

# What a histogram's values are, and bcc's word for the unit.
UNITS = {
    "ms": "usecs",
    "connect": "usecs",
    "rtt": "usecs",
    "tx": "bytes",
    "rx": "bytes",
}
BAR = 40
_BLOCKS = " ▏▎▍▌▋▊▉█"


class Figure:
    """A column of a summary: its title, how wide, what it is, and how it is made."""

    __slots__ = ("form", "meaning", "of", "title")

    def __init__(
        self, title: str, form: str, meaning: str, of: Callable[[Group, float], str]
    ) -> None:
        self.title = title
        self.form = form
        self.meaning = meaning
        self.of = of


def _number(value: float | None) -> str:
    """Three digits at least, and no more than are needed to be exact to 1 %."""
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _ms(quantity: str, share: float) -> Callable[[Group, float], str]:
    def text(group: Group, _seconds: float) -> str:
        found = group.quantities[quantity].quantile(share)
        return _number(None if found is None else found / 1000)

    return text


def _kib(quantity: str, share: float | None = None) -> Callable[[Group, float], str]:
    def text(group: Group, _seconds: float) -> str:
        histogram = group.quantities[quantity]
        found = histogram.total if share is None else histogram.quantile(share)
        return _number(None if found is None else found / 1024)

    return text


def _rate(group: Group, seconds: float) -> str:
    # The rest of an interval, after its end: too short to tell.
    return _number(group.count / seconds) if seconds >= 0.1 else "-"


def _retrans(group: Group, _seconds: float) -> str:
    share = group.retrans_share
    return "-" if share is None else f"{100 * share:.1f}"


SESSION_FIGURES = (
    Figure("COUNT", "%7s", "sessions", lambda group, _: str(group.count)),
    Figure("/S", "%7s", "sessions a second", _rate),
    Figure("FAIL", "%5s", "that did not end well", lambda group, _: str(group.failed)),
    Figure("P50_MS", "%7s", "median lifespan", _ms("ms", 0.5)),
    Figure("P90_MS", "%7s", "lifespan of 90 % at most", _ms("ms", 0.9)),
    Figure("P99_MS", "%7s", "lifespan of 99 % at most", _ms("ms", 0.99)),
    Figure(
        "MAX_MS",
        "%7s",
        "longest lifespan",
        lambda group, _: _number(group.quantities["ms"].most / 1000),
    ),
    Figure("CON50", "%6s", "median time to connect, ms", _ms("connect", 0.5)),
    Figure("CON99", "%6s", "time to connect of 99 % at most, ms", _ms("connect", 0.99)),
    Figure("TX_KB", "%7s", "sent in all", _kib("tx")),
    Figure("TX50", "%6s", "median sent, KB", _kib("tx", 0.5)),
    Figure("RX_KB", "%7s", "received in all", _kib("rx")),
    Figure("RX50", "%6s", "median received, KB", _kib("rx", 0.5)),
    Figure("RETR%", "%5s", "segments sent again, of all sent", _retrans),
)
STATE_FIGURES = (
    Figure("COUNT", "%9s", "changes", lambda group, _: str(group.count)),
    Figure(
        "TOTAL_MS",
        "%12s",
        "time in all",
        lambda group, _: _number(group.quantities["ms"].total / 1000),
    ),
    Figure("P50_MS", "%9s", "median", _ms("ms", 0.5)),
    Figure("P99_MS", "%9s", "of 99 % at most", _ms("ms", 0.99)),
    Figure(
        "MAX_MS",
        "%9s",
        "longest",
        lambda group, _: _number(group.quantities["ms"].most / 1000),
    ),
)

_STATE_FORMS = {"oldstate": "%-11s", "newstate": "%-11s"}
_OTHER_TEXT = OTHER[0]


def key_texts(by: Sequence[str], key: Key) -> list[str]:
    """A group's key as the cells of a table."""
    if key == OTHER:
        return [_OTHER_TEXT] + [""] * (len(by) - 1)
    return ["-" if value is None else printable(str(value)) for value in key]


def table(
    summary: Summary,
    figures: Sequence[Figure],
    number: int | None,
    order: str,
) -> Iterator[str]:
    """Lines, the header first."""
    forms = [_key_form(name) for name in summary.by]
    groups = summary.top(number, order)
    texts = [key_texts(summary.by, key) for key, _ in groups]
    # Wider where the text of others would push the figures out of line.
    titles = [_key_title(name) for name in summary.by]
    widths = [
        max(len(form % ""), len(title), *(len(row[n]) for row in texts), 0)
        for n, (form, title) in enumerate(zip(forms, titles, strict=True))
    ]
    cells = [f.form % f.title for f in figures]
    yield _line(titles, widths, cells)
    for (_, group), text in zip(groups, texts, strict=True):
        cells = [f.form % f.of(group, summary.seconds) for f in figures]
        yield _line(text, widths, cells)


def csv_lines(
    summary: Summary,
    figures: Sequence[Figure],
    number: int | None,
    order: str,
    *,
    time: str,
    titles: bool,
) -> Iterator[str]:
    """Lines of CSV (RFC 4180). time: in front of each, if not empty; titles: first."""
    front = ["TIME"] if time else []
    if titles:
        heads = [_key_title(name) for name in summary.by]
        yield ",".join([*front, *heads, *(figure.title for figure in figures)])
    for key, group in summary.top(number, order):
        texts = ["" if text == "-" else text for text in key_texts(summary.by, key)]
        cells = [figure.of(group, summary.seconds) for figure in figures]
        cells = ["" if cell == "-" else cell for cell in cells]
        yield ",".join([time] * bool(time) + [*map(csv_field, texts), *cells])


def _line(texts: Iterable[str], widths: Iterable[int], cells: Iterable[str]) -> str:
    keys = [text.ljust(width) for text, width in zip(texts, widths, strict=True)]
    return " ".join([*keys, *cells]).rstrip()


def _key_title(name: str) -> str:
    if name in KEYS:
        return KEYS[name].title
    return name.upper()


def _key_form(name: str) -> str:
    if name in KEYS:
        return KEYS[name].form
    return _STATE_FORMS.get(name, "%-18s")


def histograms(
    summary: Summary, quantity: str, number: int | None, order: str, blocks: bool
) -> Iterator[str]:
    """Lines: for each group its name, then a histogram as bcc prints them."""
    for key, group in summary.top(number, order):
        names = zip(summary.by, key_texts(summary.by, key))  # noqa: B905  (OTHER)
        yield ""
        yield ", ".join(f"{name} = {text}" for name, text in names if text)
        yield from _histogram(group.quantities[quantity], UNITS[quantity], blocks)


def _histogram(histogram: Histogram, unit: str, blocks: bool) -> Iterator[str]:
    rows = list(histogram.octaves())
    most = max((count for _, _, count in rows), default=0)
    if not most:
        yield "     (none)"
        return
    yield f"     {unit:<19} : count     distribution"
    for low, high, count in rows:
        yield f"{low:>10} -> {high:<10} : {count:<8} |{_bar(count, most, blocks)}|"


def _bar(count: int, most: int, blocks: bool) -> str:
    if not blocks:
        return ("*" * (BAR * count // most)).ljust(BAR)
    eighths = 8 * BAR * count // most
    text = _BLOCKS[8] * (eighths // 8) + (_BLOCKS[eighths % 8] if eighths % 8 else "")
    return text.ljust(BAR)


def json_lines(
    summary: Summary,
    number: int | None,
    order: str,
    time: str,
    quantities: Sequence[str],
) -> Iterator[str]:
    """A JSON object for each group."""
    for key, group in summary.top(number, order):
        told: dict[str, Any] = {"time": time, "seconds": round(summary.seconds, 3)}
        other = key == OTHER
        told["other"] = other
        for n, name in enumerate(summary.by):
            told[name] = None if other else key[n]
        told["count"] = group.count
        told["rate"] = (
            round(group.count / summary.seconds, 3) if summary.seconds else None
        )
        if quantities == QUANTITIES:
            told["failed"] = group.failed
            told["ends"] = group.ends
            told["retrans"] = group.retrans
            told["segs_out"] = group.segs_out
        for name in quantities:
            told[_json_name(name)] = _json_histogram(
                group.quantities[name], 1 if UNITS[name] == "bytes" else 1000
            )
        yield json.dumps(told)


def _json_name(quantity: str) -> str:
    return {"connect": "connect_ms", "rtt": "rtt_ms"}.get(
        quantity, quantity if quantity == "ms" else f"{quantity}_bytes"
    )


def _json_histogram(histogram: Histogram, scale: int) -> dict[str, Any]:
    def scaled(value: float | None) -> float | None:
        return None if value is None else value / scale if scale > 1 else value

    return {
        "count": histogram.count,
        "total": scaled(histogram.total),
        "p50": scaled(histogram.quantile(0.5)),
        "p90": scaled(histogram.quantile(0.9)),
        "p99": scaled(histogram.quantile(0.99)),
        "max": scaled(histogram.most) if histogram.count else None,
        "histogram": [
            [scaled(low), scaled(high), count]
            for low, high, count in histogram.octaves()
        ],
    }
