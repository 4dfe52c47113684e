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

and `value` may use cgroup_path(id), which knows the host's.
"""

from __future__ import annotations


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
        object_value="moment(key)",
        form="%-8s",
    ),
    "elapsed": Column(
        title="TIME(s)",
        key="",
        unit="s",
        meaning="the same, counted from the first row",
        of="(time_ns // 1000 - start_us) / 1000000",
        memo="False",
        form="%-9.6f",
    ),
    "pid": Column(
        title="PID",
        key="pid",
        unit="",
        meaning="process that owns the session; - if that cannot be known",
        of="owner",
        value="pid(key)",
        form="%-5s",
    ),
    "comm": Column(
        title="COMM",
        key="comm",
        unit="",
        meaning="its name, as ps(1) shows it",
        of="owner",
        value="comm(key)",
        form="%-10.10s",
        wide_form="%-16.16s",
    ),
    "ip": Column(
        title="IP",
        key="ip",
        unit="",
        meaning="4 or 6; IPv4 through an IPv6 socket is 4",
        of="raddr",
        value="family(key)",
        form="%-2s",
    ),
    "laddr": Column(
        title="LADDR",
        key="laddr",
        unit="",
        meaning="local address",
        of="laddr",
        value="address(key)",
        form="%-15s",
        wide_form="%-26s",
    ),
    "lport": Column(
        title="LPORT",
        key="lport",
        unit="",
        meaning="local port",
        of="lport",
        memo="False",
        form="%-5d",
    ),
    "raddr": Column(
        title="RADDR",
        key="raddr",
        unit="",
        meaning="remote address",
        of="raddr",
        value="address(key)",
        form="%-15s",
        wide_form="%-26s",
    ),
    "rport": Column(
        title="RPORT",
        key="rport",
        unit="",
        meaning="remote port",
        of="rport",
        memo="False",
        form="%-5d",
    ),
    "tx": Column(
        title="TX_KB",
        key="tx_bytes",
        unit="KiB; JSON: bytes",
        meaning="sent by the application, acknowledged by the peer",
        of="tx_bytes >> 10",
        memo="tx_bytes < 4194304",
        json_of="tx_bytes",
        form="%5d",
        wide_form="%6d",
    ),
    "rx": Column(
        title="RX_KB",
        key="rx_bytes",
        unit="KiB; JSON: bytes",
        meaning="received for the application",
        of="rx_bytes >> 10",
        memo="rx_bytes < 4194304",
        json_of="rx_bytes",
        form="%5d",
        wide_form="%6d",
    ),
    "ms": Column(
        title="MS",
        key="ms",
        unit="ms",
        meaning="lifespan; --style says from where it counts",
        of="born_us",
        value="key / 1000",
        memo="born_us < 4096",
        form="%10.2f",
    ),
    "dir": Column(
        title="DIR",
        key="dir",
        unit="",
        meaning="out: this host connected; in: it accepted",
        of="dir",
        value="DIRS[key]",
        form="%-3s",
    ),
    "end": Column(
        title="END",
        key="end",
        unit="",
        meaning="how it ended: closed, reset-by-peer, refused, ...; open: not yet",
        of="end",
        value="ENDS[key]",
        form="%-13s",
    ),
    "first": Column(
        title="FIRST",
        key="first",
        unit="",
        meaning="who closed first (FIN or RST): local, remote, both",
        of="first",
        value="FIRSTS[key]",
        form="%-6s",
    ),
    "errno": Column(
        title="ERRNO",
        key="errno",
        unit="",
        meaning="the socket's error at its end, as errno(3) names it",
        of="error",
        value="error_name(key)",
        form="%-12s",
    ),
    "connect_ms": Column(
        title="CONN_MS",
        key="connect_ms",
        unit="ms",
        meaning="of a connect: from SYN to ESTABLISHED, or to its failure",
        of="connect_us",
        value="ms_text(key)",
        memo="False",
        json_value="ms(key)",
        form="%8s",
        nullable=True,
    ),
    "open_ms": Column(
        title="OPEN_MS",
        key="open_ms",
        unit="ms",
        meaning="from then to the first FIN, or to the end",
        of="open_us",
        value="key / 1000",
        memo="False",
        form="%8.2f",
    ),
    "close_ms": Column(
        title="CLOSE_MS",
        key="close_ms",
        unit="ms",
        meaning="from then to the end",
        of="close_us",
        value="key / 1000",
        memo="False",
        form="%8.2f",
    ),
    "rtt_ms": Column(
        title="RTT_MS",
        key="rtt_ms",
        unit="ms",
        meaning="smoothed round-trip time at the end",
        of="srtt_us",
        value="ms_text(rtt(key))",
        memo="False",
        json_value="ms(rtt(key))",
        form="%6s",
        nullable=True,
    ),
    "min_rtt_ms": Column(
        title="MINRTT",
        key="min_rtt_ms",
        unit="ms",
        meaning="least round-trip time of the last minutes (tcp_min_rtt_wlen)",
        of="min_rtt_us",
        value="ms_text(key)",
        memo="False",
        json_value="ms(key)",
        form="%7s",
        nullable=True,
    ),
    "retrans": Column(
        title="RETR",
        key="retrans",
        unit="segments",
        meaning="sent again, SYN and FIN included",
        of="retrans",
        memo="False",
        form="%4d",
    ),
    "retrans_bytes": Column(
        title="RETR_B",
        key="retrans_bytes",
        unit="bytes",
        meaning="sent again",
        of="retrans_bytes",
        memo="False",
        form="%7d",
    ),
    "lost_bytes": Column(
        title="LOST_B",
        key="lost_bytes",
        unit="bytes",
        meaning="written by the application, never acknowledged",
        of="lost_bytes",
        memo="False",
        form="%7d",
    ),
    "unread_bytes": Column(
        title="UNREAD_B",
        key="unread_bytes",
        unit="bytes",
        meaning="received, never read by the application",
        of="unread_bytes",
        memo="False",
        form="%8d",
    ),
    "mss": Column(
        title="MSS",
        key="mss",
        unit="bytes",
        meaning="largest segment that was sent",
        of="mss",
        memo="False",
        form="%5d",
    ),
    "segs_in": Column(
        title="SEGS_IN",
        key="segs_in",
        unit="segments",
        meaning="received, those without data included",
        of="segs_in",
        memo="False",
        form="%7d",
    ),
    "segs_out": Column(
        title="SEGS_OUT",
        key="segs_out",
        unit="segments",
        meaning="sent, those without data and those sent again included",
        of="segs_out",
        memo="False",
        form="%8d",
    ),
    "tx_rate": Column(
        title="TX_KB/S",
        key="tx_rate",
        unit="KiB/s; JSON: bytes/s",
        meaning="TX over the time it was open, from 1 ms on",
        of="(tx_bytes, open_us)",
        value="rate_kib(*key)",
        memo="False",
        json_value="rate(*key)",
        form="%9s",
        nullable=True,
    ),
    "rx_rate": Column(
        title="RX_KB/S",
        key="rx_rate",
        unit="KiB/s; JSON: bytes/s",
        meaning="RX over the time it was open, from 1 ms on",
        of="(rx_bytes, open_us)",
        value="rate_kib(*key)",
        memo="False",
        json_value="rate(*key)",
        form="%9s",
        nullable=True,
    ),
    "cc": Column(
        title="CC",
        key="cc",
        unit="",
        meaning="congestion control",
        of="cc",
        value="c_text(key)",
        form="%-7s",
    ),
    "uid": Column(
        title="UID",
        key="uid",
        unit="",
        meaning="the owner's user ID",
        of="(owner, uid)",
        value="if_owned(*key)",
        form="%-6s",
    ),
    "user": Column(
        title="USER",
        key="user",
        unit="",
        meaning="its name",
        of="(owner, uid)",
        value="user_name(if_owned(*key))",
        form="%-8.8s",
        wide_form="%-16.16s",
    ),
    "ppid": Column(
        title="PPID",
        key="ppid",
        unit="",
        meaning="the owner's parent",
        of="(owner, ppid)",
        value="if_owned(*key)",
        form="%-7s",
    ),
    "netns": Column(
        title="NETNS",
        key="netns",
        unit="inode",
        meaning="network namespace of the socket (lsns -t net)",
        of="netns",
        form="%-10d",
        memo="False",
    ),
    "cgroup": Column(
        title="CGROUP",
        key="cgroup",
        unit="",
        meaning="the owner's cgroup, in the v2 hierarchy",
        of="cgroup",
        value="cgroup_path(key)",
        form="%-40s",
    ),
    "container": Column(
        title="CONTAINER",
        key="container",
        unit="",
        meaning="its container's ID, or machine's name; short in tables",
        of="cgroup",
        value="short(container(cgroup_path(key)))",
        json_value="container(cgroup_path(key))",
        form="%-12s",
    ),
    "pod": Column(
        title="POD",
        key="pod",
        unit="",
        meaning="UID of its Kubernetes pod",
        of="cgroup",
        value="pod(cgroup_path(key))",
        form="%-36s",
    ),
    "born": Column(
        title="BORN",
        key="born",
        unit="",
        meaning="before-trace: what is older than the trace isn't counted",
        of="before",
        value="BORN[key]",
        form="%-12s",
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
        form="%6.2f",
    ),
    "rx_parts": Column(
        title="RX_KB",
        key="",
        unit="KiB",
        meaning="RX_KB with its fraction",
        of="rx_bytes",
        value="key / 1024",
        memo="rx_bytes < 4096",
        form="%6.2f",
    ),
    "whole_ms": Column(
        title="MS",
        key="",
        unit="ms",
        meaning="MS without its fraction",
        of="born_us // 1000",
        memo="born_us < 4096000",
        form="%8d",
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
        object_value="key",
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
        object_value="None if key < 0 else key / 1000",
    ),
}


# What -x puts behind bcc's columns: within 160 in all.
EXTENDED = (
    *("dir", "end", "first", "connect_ms", "close_ms"),
    *("rtt_ms", "retrans", "user", "container"),
)
