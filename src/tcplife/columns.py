"""The columns, and the layouts that show them.

`text` and `json` are Python expressions over a record's fields (events.py) and
the functions of sinks/rows.py, which compiles those that a layout shows into
one. `memo` names the field that alone decides them, where that is worth
remembering. Besides the fields they may use:

    born_ns      where the layout's lifespan begins
    wall_offset  nanoseconds from the records' clock to the wall clock
    start_us     the time of the first row, in microseconds
"""

from __future__ import annotations


class Column:
    """key: in JSON; empty for a column of tables only."""

    __slots__ = ("json", "key", "meaning", "memo", "text", "title", "unit")

    def __init__(
        self,
        title: str,
        key: str,
        unit: str,
        meaning: str,
        text: str,
        json: str = "",
        memo: str = "",
    ) -> None:
        self.title = title
        self.key = key
        self.unit = unit
        self.meaning = meaning
        self.text = text
        self.json = json
        self.memo = memo


COLUMNS = {
    "time": Column(
        title="TIME",
        key="time",
        unit="HH:MM:SS; in JSON RFC 3339, UTC",
        meaning="when the session ended",
        text="clock((end_ns + wall_offset) // 1000000000)",
        json="rfc3339((end_ns + wall_offset) // 1000)",
    ),
    "elapsed": Column(
        title="TIME(s)",
        key="",
        unit="s",
        meaning="when the session ended, counted from the first row",
        text="(end_ns // 1000 - start_us) / 1000000",
    ),
    "pid": Column(
        title="PID",
        key="pid",
        unit="",
        meaning="process that owns the session; - (null) if that cannot be known",
        text="pid(owner)",
        json="pid_json(owner)",
        memo="owner",
    ),
    "comm": Column(
        title="COMM",
        key="comm",
        unit="",
        meaning="its name, as ps(1) shows it",
        text="comm(owner)",
        json="comm_json(owner)",
        memo="owner",
    ),
    "ip": Column(
        title="IP",
        key="ip",
        unit="",
        meaning="4 or 6; IPv4 through an IPv6 socket is 4",
        text="family(raddr)",
        json="family(raddr)",
        memo="raddr",
    ),
    "laddr": Column(
        title="LADDR",
        key="laddr",
        unit="",
        meaning="local address",
        text="address(laddr)",
        json="address_json(laddr)",
        memo="laddr",
    ),
    "lport": Column(
        title="LPORT",
        key="lport",
        unit="",
        meaning="local port",
        text="lport",
        json="lport",
    ),
    "raddr": Column(
        title="RADDR",
        key="raddr",
        unit="",
        meaning="remote address",
        text="address(raddr)",
        json="address_json(raddr)",
        memo="raddr",
    ),
    "rport": Column(
        title="RPORT",
        key="rport",
        unit="",
        meaning="remote port",
        text="rport",
        json="rport",
    ),
    "tx": Column(
        title="TX_KB",
        key="tx_bytes",
        unit="KiB; in JSON bytes",
        meaning="sent by the application and acknowledged by the peer",
        text="tx_bytes / 1024",
        json="tx_bytes",
    ),
    "rx": Column(
        title="RX_KB",
        key="rx_bytes",
        unit="KiB; in JSON bytes",
        meaning="received for the application",
        text="rx_bytes / 1024",
        json="rx_bytes",
    ),
    "ms": Column(
        title="MS",
        key="ms",
        unit="ms",
        meaning="lifespan; --style says from where it counts",
        text="(end_ns - born_ns) // 1000 / 1000",
        json="(end_ns - born_ns) // 1000 / 1000",
    ),
    "whole_ms": Column(
        title="MS",
        key="",
        unit="ms",
        meaning="lifespan in whole milliseconds",
        text="(end_ns - born_ns) // 1000000",
    ),
}


class Layout:
    """The shape of a header and a row, as two format strings.

    born: the field from which lifespans count.
    time, elapsed: the heading and format that -T and -t put in front.
    """

    __slots__ = ("born", "columns", "csv", "elapsed", "header", "row", "time")

    def __init__(
        self,
        columns: tuple[str, ...],
        header: str,
        row: str,
        born: str = "birth_ns",
        time: tuple[str, str] = ("TIME     ", "%-8s "),
        elapsed: tuple[str, str] = ("TIME(s)   ", "%-9.6f "),
        csv: bool = False,
    ) -> None:
        self.columns = columns
        self.header = header
        self.row = row
        self.born = born
        self.time = time
        self.elapsed = elapsed
        self.csv = csv


_WITHOUT_IP = "pid", "comm", "laddr", "lport", "raddr", "rport", "tx", "rx", "ms"
_WITH_IP = "pid", "comm", "ip", "laddr", "lport", "raddr", "rport", "tx", "rx", "ms"

# bcc's tcplife.py, its three pairs of format strings. The lifespan counts from
# the last early state, which is ESTABLISHED once there is a connection.
NARROW = Layout(
    _WITHOUT_IP,
    "%-5s %-10.10s %-15s %-5s %-15s %-5s %5s %5s %s",
    "%-5s %-10.10s %-15s %-5d %-15s %-5d %5d %5d %.2f",
)
WIDE = Layout(
    _WITH_IP,
    "%-5s %-16.16s %-2s %-26s %-5s %-26s %-5s %6s %6s %s",
    "%-5s %-16.16s %-2s %-26s %-5d %-26s %-5d %6d %6d %.2f",
)
CSV = Layout(
    _WITH_IP,
    "%s,%s,%s,%s,%s,%s,%s,%s,%s,%s",
    "%s,%s,%s,%s,%d,%s,%d,%d,%d,%.2f",
    time=("TIME,", "%s,"),
    elapsed=("TIME(s),", "%.6f,"),
    csv=True,
)
# bpftrace's tcplife.bt. RPORT is a column wider in its rows than in its header;
# the lifespan counts from the first state, so it takes in the handshake.
BT = Layout(
    (*_WITHOUT_IP[:-1], "whole_ms"),
    "%-5s %-10s %-15s %-5s %-15s %-5s %5s %5s %s",
    "%-5s %-10.10s %-15s %-5d %-15s %-6d %5d %5d %d",
    born="first_ns",
)
# libbpf-tools' tcplife.c. What its -T calls TIME(s) is HH:MM:SS.
LIBBPF = Layout(
    _WITHOUT_IP,
    "%-7s %-16s %-15s %-5s %-15s %-5s %-6s %-6s %s",
    "%-7s %-16s %-15s %-5d %-15s %-5d %-6.2f %-6.2f %.2f",
    time=("TIME(s)  ", "%8s "),
)
LIBBPF_WIDE = Layout(
    _WITHOUT_IP,
    "%-7s %-16s %-26s %-5s %-26s %-5s %-6s %-6s %s",
    "%-7s %-16s %-26s %-5d %-26s %-5d %-6.2f %-6.2f %.2f",
    time=LIBBPF.time,
)
