"""The columns, and the layouts that show them.

A column's `of` is an expression over a record's fields (events.py), and `value`
one over its result, `key`, and the functions of values.py; sinks/rows.py makes
one function of those that a layout shows. Because rows are alike, what was made
of a key is remembered: of any key, or of numbers below `below` only, or of none
(below=0; then the value is shown as it is). Besides the fields, `of` may use:

    born_ns      the lifespan that the layout shows
    wall_offset  nanoseconds from the records' clock to the wall clock
    start_us     the time of the first row, in microseconds
"""

from __future__ import annotations


class Column:
    """key: in JSON; empty for a column of tables only.

    json_of, json_value: what JSON shows, where that isn't what tables show.
    """

    __slots__ = (
        "below",
        "json_of",
        "json_value",
        "key",
        "meaning",
        "of",
        "title",
        "unit",
        "value",
    )

    def __init__(
        self,
        title: str,
        key: str,
        unit: str,
        meaning: str,
        of: str,
        value: str = "key",
        below: int | None = None,
        json_of: str = "",
        json_value: str = "",
    ) -> None:
        self.title = title
        self.key = key
        self.unit = unit
        self.meaning = meaning
        self.of = of
        self.value = value
        self.below = below
        self.json_of = json_of or of
        self.json_value = json_value or value


COLUMNS = {
    "time": Column(
        title="TIME",
        key="time",
        unit="HH:MM:SS; JSON: RFC 3339",
        meaning="when the session ended",
        of="(end_ns + wall_offset) // 1000000000",
        value="clock(key)",
        below=0,
        json_of="(end_ns + wall_offset) // 1000",
        json_value="rfc3339(key)",
    ),
    "elapsed": Column(
        title="TIME(s)",
        key="",
        unit="s",
        meaning="when the session ended, counted from the first row",
        of="(end_ns // 1000 - start_us) / 1000000",
        below=0,
    ),
    "pid": Column(
        title="PID",
        key="pid",
        unit="",
        meaning="process that owns the session; - if that cannot be known",
        of="owner",
        value="pid(key)",
    ),
    "comm": Column(
        title="COMM",
        key="comm",
        unit="",
        meaning="its name, as ps(1) shows it",
        of="owner",
        value="comm(key)",
    ),
    "ip": Column(
        title="IP",
        key="ip",
        unit="",
        meaning="4 or 6; IPv4 through an IPv6 socket is 4",
        of="raddr",
        value="family(key)",
    ),
    "laddr": Column(
        title="LADDR",
        key="laddr",
        unit="",
        meaning="local address",
        of="laddr",
        value="address(key)",
    ),
    "lport": Column(
        title="LPORT",
        key="lport",
        unit="",
        meaning="local port",
        of="lport",
        below=0,
    ),
    "raddr": Column(
        title="RADDR",
        key="raddr",
        unit="",
        meaning="remote address",
        of="raddr",
        value="address(key)",
    ),
    "rport": Column(
        title="RPORT",
        key="rport",
        unit="",
        meaning="remote port",
        of="rport",
        below=0,
    ),
    "tx": Column(
        title="TX_KB",
        key="tx_bytes",
        unit="KiB; JSON: bytes",
        meaning="sent by the application, acknowledged by the peer",
        of="tx_bytes >> 10",
        below=4096,
        json_of="tx_bytes",
    ),
    "rx": Column(
        title="RX_KB",
        key="rx_bytes",
        unit="KiB; JSON: bytes",
        meaning="received for the application",
        of="rx_bytes >> 10",
        below=4096,
        json_of="rx_bytes",
    ),
    "ms": Column(
        title="MS",
        key="ms",
        unit="ms",
        meaning="lifespan; --style says from where it counts",
        of="born_ns // 1000",
        value="key / 1000",
        below=4096,
    ),
    # What --style bt and --style libbpf have in their place.
    "tx_parts": Column(
        title="TX_KB",
        key="",
        unit="KiB",
        meaning="TX_KB with its fraction",
        of="tx_bytes",
        value="key / 1024",
        below=4096,
    ),
    "rx_parts": Column(
        title="RX_KB",
        key="",
        unit="KiB",
        meaning="RX_KB with its fraction",
        of="rx_bytes",
        value="key / 1024",
        below=4096,
    ),
    "whole_ms": Column(
        title="MS",
        key="",
        unit="ms",
        meaning="MS without its fraction",
        of="born_ns // 1000000",
        below=4096,
    ),
}


class Layout:
    """The shape of a header and a row, as two format strings.

    born: the record's field that is the lifespan.
    time, elapsed: the heading and format that -T and -t put in front.
    """

    __slots__ = ("born", "columns", "csv", "elapsed", "header", "row", "time")

    def __init__(
        self,
        columns: str,
        header: str,
        row: str,
        born: str = "span_ns",
        time: tuple[str, str] = ("TIME     ", "%-8s "),
        elapsed: tuple[str, str] = ("TIME(s)   ", "%-9.6f "),
        csv: bool = False,
    ) -> None:
        self.columns = columns.split()
        self.header = header
        self.row = row
        self.born = born
        self.time = time
        self.elapsed = elapsed
        self.csv = csv


# bcc's tcplife.py, its three pairs of format strings. The lifespan counts from
# the last early state, which is ESTABLISHED once there is a connection.
NARROW = Layout(
    "pid comm laddr lport raddr rport tx rx ms",
    "%-5s %-10.10s %-15s %-5s %-15s %-5s %5s %5s %s",
    "%-5s %-10.10s %-15s %-5d %-15s %-5d %5d %5d %.2f",
)
WIDE = Layout(
    "pid comm ip laddr lport raddr rport tx rx ms",
    "%-5s %-16.16s %-2s %-26s %-5s %-26s %-5s %6s %6s %s",
    "%-5s %-16.16s %-2s %-26s %-5d %-26s %-5d %6d %6d %.2f",
)
CSV = Layout(
    "pid comm ip laddr lport raddr rport tx rx ms",
    "%s,%s,%s,%s,%s,%s,%s,%s,%s,%s",
    "%s,%s,%s,%s,%d,%s,%d,%d,%d,%.2f",
    time=("TIME,", "%s,"),
    elapsed=("TIME(s),", "%.6f,"),
    csv=True,
)
# bpftrace's tcplife.bt. RPORT is a column wider in its rows than in its header;
# the lifespan counts from the first state, so it takes in the handshake.
BT = Layout(
    "pid comm laddr lport raddr rport tx rx whole_ms",
    "%-5s %-10s %-15s %-5s %-15s %-5s %5s %5s %s",
    "%-5s %-10.10s %-15s %-5d %-15s %-6d %5d %5d %d",
    born="life_ns",
)
# libbpf-tools' tcplife.c. What its -T calls TIME(s) is HH:MM:SS.
LIBBPF = Layout(
    "pid comm laddr lport raddr rport tx_parts rx_parts ms",
    "%-7s %-16s %-15s %-5s %-15s %-5s %-6s %-6s %s",
    "%-7s %-16s %-15s %-5d %-15s %-5d %-6.2f %-6.2f %.2f",
    time=("TIME(s)  ", "%8s "),
)
LIBBPF_WIDE = Layout(
    "pid comm laddr lport raddr rport tx_parts rx_parts ms",
    "%-7s %-16s %-26s %-5s %-26s %-5s %-6s %-6s %s",
    "%-7s %-16s %-26s %-5d %-26s %-5d %-6.2f %-6.2f %.2f",
    time=LIBBPF.time,
)
