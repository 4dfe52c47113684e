"""The columns of tcpstates."""

from __future__ import annotations

from tcplife.columns.column import Column
from tcplife.columns.sessions import SESSION_COLUMNS

STATE_COLUMNS = {
    "time": SESSION_COLUMNS["time"],
    "elapsed": SESSION_COLUMNS["elapsed"],
    "skaddr": Column(
        title="SKADDR",
        key="skaddr",
        kind="hex",
        unit="",
        meaning="the socket's address in the kernel, which tells sockets apart",
        of="skaddr",
        json_value="hex_text(key)",
        object_value="key",
    ),
    "c_pid": Column(
        title="C-PID",
        key="c_pid",
        kind="u32",
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
        kind="f64",
        unit="ms",
        meaning="time in OLDSTATE; 0 (null) if nobody saw that begin",
        of="span_us",
        value="key / 1000",
        memo="span_us < 4096",
        json_of="-1 if first else span_us",
        json_value="span_json(key)",
        object_value="None if key < 0 else key / 1000",
    ),
}
