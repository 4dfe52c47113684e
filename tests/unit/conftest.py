"""Shows sessions as the command would: from its options to its bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tcplife.cli import host, messages
from tcplife.cli import tcplife as command
from tcplife.columns import values
from tcplife.records.batch import Batch, Loss, Origin

from .records import CGROUPS, WALL_OFFSET, Session, Show, pack

# Far enough from UTC, and from whole hours, to be told from it.
TIME_ZONE = "NPT-5:45"


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, time_zone: None) -> Show:
    def shown(options: str, *sessions: Session, batch: int = 0) -> str:
        fd = os.memfd_create("rows")
        monkeypatch.setattr(messages, "STDOUT", fd)
        given = command._parser().parse_args(options.split())
        columns, layout, wire = command._shown(given)
        origin = Origin({"cgroup_path": CGROUPS.get})
        sink = host.open_lines(given, wire, columns, layout)
        step = batch or len(sessions)
        for start in range(0, len(sessions), step):
            data = pack(*sessions[start : start + step], wire=wire)
            sink.write(Batch(wire, data, WALL_OFFSET, Loss(), origin))
        sink.close()
        written = os.pread(fd, os.fstat(fd).st_size, 0)
        os.close(fd)
        return written.decode()

    return shown


@pytest.fixture
def time_zone() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", TIME_ZONE)
        time.tzset()
        values.clock.cache_clear()
        yield
    time.tzset()
    values.clock.cache_clear()
