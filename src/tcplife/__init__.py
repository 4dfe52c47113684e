"""tcplife: the TCP sessions of a host, their owners, bytes and lifespans.

import tcplife

with tcplife.trace(remote_ports=[443], timeout=60) as sessions:
    for session in sessions:
        print(session.comm, session.raddr, session.end, session.ms)
"""

from __future__ import annotations

from tcplife.errors import OutputClosed, OutputError, TcplifeError, UnavailableError
from tcplife.errors import RecordingError as RecordingError
from tcplife.errors import UsageError as UsageError
from tcplife.version import __version__ as __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tcplife.api import (
        FakeSource,
        Trace,
        open_sessions,
        replay,
        replay_states,
        trace,
        trace_states,
    )
    from tcplife.records.batch import Loss
    from tcplife.records.session import Session, StateChange
    from tcplife.summary.histogram import Histogram
    from tcplife.summary.summary import Group, Summary

__all__ = [
    "FakeSource",
    "Group",
    "Histogram",
    "Loss",
    "OutputClosed",
    "OutputError",
    "RecordingError",
    "Session",
    "StateChange",
    "Summary",
    "TcplifeError",
    "Trace",
    "UnavailableError",
    "UsageError",
    "open_sessions",
    "replay",
    "replay_states",
    "trace",
    "trace_states",
]


def __getattr__(name: str) -> Any:
    # Not at once: the commands, which have to start at once, do without it.
    if name in __all__:
        from tcplife import api
        from tcplife.summary import summary

        return getattr(summary if hasattr(summary, name) else api, name)
    raise AttributeError(f"module 'tcplife' has no attribute {name!r}")
