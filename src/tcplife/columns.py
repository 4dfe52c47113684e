"""The columns of both tools.

A column's `of` is an expression over a record's fields (events.py), and `value`
one over its result, `key`, and the functions of values.py; sinks/rows.py makes
one function of those that a layout shows. Because rows are alike, what was made
of a key is remembered where `memo`, an expression over the fields, is true; else
the value, which then has to be a number or safe text, is shown as it is. Besides
the fields, `of` may use:

    born_us      the lifespan that the layout shows
    wall_offset  nanoseconds from the records' clock to the wall clock
    start_us     the time of the first row, in microseconds
"""

from __future__ import annotations


class Column:
    """key: in JSON; empty for a column of tables only.

    json_of, json_value: what JSON shows, where that isn't what tables show.
    """

    __slots__ = (
        "json_of",
        "json_value",
        "key",
        "meaning",
        "memo",
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
        memo: str = "True",
        json_of: str = "",
        json_value: str = "",
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


SESSION_COLUMNS = {
    "time": Column(
        title="TIME",
        key="time",
        unit="HH:MM:SS; JSON: RFC 3339",
        meaning="when it happened",
        of="(time_ns + wall_offset) // 1000000000",
        value="clock(key)",
        memo="False",
        json_of="(time_ns + wall_offset) // 1000",
        json_value="rfc3339(key)",
    ),
    "elapsed": Column(
        title="TIME(s)",
        key="",
        unit="s",
        meaning="the same, counted from the first row",
        of="(time_ns // 1000 - start_us) / 1000000",
        memo="False",
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
        memo="False",
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
        memo="False",
    ),
    "tx": Column(
        title="TX_KB",
        key="tx_bytes",
        unit="KiB; JSON: bytes",
        meaning="sent by the application, acknowledged by the peer",
        of="tx_bytes >> 10",
        memo="tx_bytes < 4194304",
        json_of="tx_bytes",
    ),
    "rx": Column(
        title="RX_KB",
        key="rx_bytes",
        unit="KiB; JSON: bytes",
        meaning="received for the application",
        of="rx_bytes >> 10",
        memo="rx_bytes < 4194304",
        json_of="rx_bytes",
    ),
    "ms": Column(
        title="MS",
        key="ms",
        unit="ms",
        meaning="lifespan; --style says from where it counts",
        of="born_us",
        value="key / 1000",
        memo="born_us < 4096",
    ),
    # What --style bt and --style libbpf have in their place.
    "tx_parts": Column(
        title="TX_KB",
        key="",
        unit="KiB",
        meaning="TX_KB with its fraction",
        of="tx_bytes",
        value="key / 1024",
        memo="tx_bytes < 4096",
    ),
    "rx_parts": Column(
        title="RX_KB",
        key="",
        unit="KiB",
        meaning="RX_KB with its fraction",
        of="rx_bytes",
        value="key / 1024",
        memo="rx_bytes < 4096",
    ),
    "whole_ms": Column(
        title="MS",
        key="",
        unit="ms",
        meaning="MS without its fraction",
        of="born_us // 1000",
        memo="born_us < 4096000",
    ),
}


STATE_COLUMNS = {
    "time": SESSION_COLUMNS["time"],
    "elapsed": SESSION_COLUMNS["elapsed"],
    "skaddr": Column(
        title="SKADDR",
        key="skaddr",
        unit="",
        meaning="the socket's address in the kernel, which tells sockets apart",
        of="skaddr",
        json_value="hex_text(key)",
    ),
    "c_pid": Column(
        title="C-PID",
        key="c_pid",
        unit="",
        meaning="process on the processor, not always the owner",
        of="current",
        value="task_pid(key)",
    ),
    "c_comm": Column(
        title="C-COMM",
        key="c_comm",
        unit="",
        meaning="name of the thread on the processor",
        of="current",
        value="task_comm(key)",
    ),
    # In JSON only: bcc's table has no room for the owner.
    "pid": SESSION_COLUMNS["pid"],
    "comm": SESSION_COLUMNS["comm"],
    "ip": SESSION_COLUMNS["ip"],
    "laddr": SESSION_COLUMNS["laddr"],
    "lport": SESSION_COLUMNS["lport"],
    "raddr": SESSION_COLUMNS["raddr"],
    "rport": SESSION_COLUMNS["rport"],
    "oldstate": Column(
        title="OLDSTATE",
        key="oldstate",
        unit="",
        meaning="state that it leaves",
        of="states",
        value="state(key[0])",
    ),
    "newstate": Column(
        title="NEWSTATE",
        key="newstate",
        unit="",
        meaning="state that it enters",
        of="states",
        value="state(key[1])",
    ),
    "ms": Column(
        title="MS",
        key="ms",
        unit="ms",
        meaning="time in OLDSTATE; 0 (null) if nobody saw that begin",
        of="span_us",
        value="key / 1000",
        memo="span_us < 4096",
        json_of="-1 if first else span_us",
        json_value="span_json(key)",
    ),
}
