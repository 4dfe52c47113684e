"""Shows sessions as the command would: from its options to its bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tcplife import values
from tcplife.cli import common
from tcplife.cli import tcplife as command
from tcplife.columns import SESSION_COLUMNS
from tcplife.events import SESSION, Batch, Loss

from .records import WALL_OFFSET, Session, Show, pack

# Far enough from UTC, and from whole hours, to be told from it.
TIME_ZONE = "NPT-5:45"


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, time_zone: None) -> Show:
    def shown(options: str, *sessions: Session, batch: int = 0) -> str:
        fd = os.memfd_create("rows")
        monkeypatch.setattr(common, "STDOUT", fd)
        given = command._parser().parse_args(options.split())
        layout = command._layout(given)
        sink = common.open_lines(given, SESSION, SESSION_COLUMNS, layout)
        step = batch or len(sessions)
        for start in range(0, len(sessions), step):
            data = pack(*sessions[start : start + step])
            sink.write(Batch(SESSION, data, WALL_OFFSET, Loss()))
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
