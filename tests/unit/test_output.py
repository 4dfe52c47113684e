"""From batches to the output: whole, at once, and honest about what is lost."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from tcplife.cli import messages
from tcplife.errors import OutputClosed, OutputError
from tcplife.fileio import write_all
from tcplife.pipeline import loop, loss
from tcplife.pipeline.loop import Stop
from tcplife.pipeline.loss import LossReport
from tcplife.pipeline.pump import pump
from tcplife.records.batch import Batch, Loss
from tcplife.records.wire import SESSION

from .records import Session, pack

SAY = partial(messages.say, "tcplife")


class FakeClock:
    """Stands in for the module time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr(loss, "time", clock)
    monkeypatch.setattr(loop, "time", clock)
    return clock


class FakeSink:
    def __init__(self, error: Exception | None = None) -> None:
        self.written = b""
        self.closed = 0
        self._error = error
        self.close_error: Exception | None = None

    def write(self, batch: Batch) -> None:
        assert len(batch) > 0
        self.written += batch.data
        if self._error:
            raise self._error

    def close(self) -> None:
        self.closed += 1
        if self.close_error:
            raise self.close_error


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe of a page, which a little data fills."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:  # the test has closed it
            continue


DATA = bytes(range(256)) * 1000


def test_writes_all_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[bytes] = []

    def fake_write(fd: int, data: memoryview) -> int:
        pieces.append(bytes(data[:1000]))
        return len(pieces[-1])

    monkeypatch.setattr(os, "write", fake_write)
    write_all(99, DATA)
    assert b"".join(pieces) == DATA


def test_nothing_is_no_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", lambda *_: pytest.fail("written"))
    write_all(99, b"")


@pytest.mark.parametrize("blocking", [True, False])
def test_waits_for_a_slow_reader(blocking: bool, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, blocking)

    def write() -> None:
        try:
            write_all(writer, DATA)
        finally:
            os.close(writer)

    writing = threading.Thread(target=write)
    writing.start()
    taken = b""
    while piece := os.read(reader, 777):
        taken += piece
    writing.join()
    assert taken == DATA


def test_no_reader(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    with pytest.raises(OutputClosed):
        write_all(writer, b"x")


@pytest.mark.parametrize("blocking", [True, False])
def test_reader_leaves_a_full_pipe(blocking: bool, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, blocking)
    caught: list[OutputError] = []

    def write() -> None:
        try:
            write_all(writer, DATA)
        except OutputError as error:
            caught.append(error)

    writing = threading.Thread(target=write)
    writing.start()
    os.read(reader, 1)
    os.close(reader)
    writing.join()
    assert [type(error) for error in caught] == [OutputClosed]


def test_full_disk() -> None:
    with open("/dev/full", "wb") as full, pytest.raises(OutputError) as raised:
        write_all(full.fileno(), b"x")
    assert type(raised.value) is OutputError
    assert str(raised.value) == "cannot write the output: No space left on device"


def test_closed_output(pipe: tuple[int, int]) -> None:
    reader, _ = pipe
    with pytest.raises(OutputError, match="Bad file descriptor"):
        write_all(reader, b"x")


def batches(*sizes: int, loss: Loss | None = None) -> list[Batch]:
    """Batches of so many sessions, each with its number as its local port."""
    numbers = iter(range(sum(sizes)))
    loss = loss or Loss()
    return [
        Batch(SESSION, pack(*(Session(lport=next(numbers)) for _ in range(n))), 0, loss)
        for n in sizes
    ]


ALL = pack(*(Session(lport=number) for number in range(6)))


@pytest.mark.parametrize("count", [None, 1, 2, 3, 4, 5, 6, 7])
def test_pump_counts_rows(count: int | None) -> None:
    sinks = [FakeSink(), FakeSink()]
    left = iter(batches(0, 2, 3, 0, 1, 0))
    pump(SAY, left, sinks, count)
    rows = 6 if count is None else min(count, 6)
    for sink in sinks:
        assert sink.written == ALL[: rows * SESSION.stride]
        assert sink.closed == 1
    # With the last row it leaves, rather than wait for one more batch.
    assert len(list(left)) == {1: 4, 2: 4, 3: 3, 4: 3, 5: 3, 6: 1}.get(count or 0, 0)


def test_pump_closes_the_sinks_and_tells_the_loss_when_writing_fails(
    capfd: pytest.CaptureFixture[str],
) -> None:
    sinks = [FakeSink(OutputClosed()), FakeSink()]
    lost = Loss(events=1)
    with pytest.raises(OutputClosed):
        pump(SAY, batches(0, 1, 1, loss=lost), sinks, None)
    assert [sink.closed for sink in sinks] == [1, 1]
    assert capfd.readouterr().err.startswith("tcplife: lost: 1 ")


def test_one_sinks_failure_does_not_end_the_others(
    capfd: pytest.CaptureFixture[str],
) -> None:
    sinks = [FakeSink(), FakeSink(OutputError("the disk is full")), FakeSink()]
    pump(SAY, batches(2, 4), sinks, None)
    assert [sink.written == ALL for sink in sinks] == [True, False, True]
    assert [sink.closed for sink in sinks] == [1, 1, 1]
    assert capfd.readouterr().err == (
        "tcplife: the disk is full; going on without it\n"
    )


@pytest.mark.parametrize("number", range(3))
def test_each_sink_is_closed_whichever_fails_to(number: int) -> None:
    sinks = [FakeSink(), FakeSink(), FakeSink()]
    sinks[number].close_error = OutputError("cannot close")
    with pytest.raises(OutputError, match="cannot close"):
        pump(SAY, batches(1), sinks, None)
    assert [sink.closed for sink in sinks] == [1, 1, 1]


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (Loss(), ""),
        (Loss(events=3), "lost: 3 rows found the ring buffer full"),
        (Loss(sessions=4), "lost: 4 sessions could not be followed for want of memory"),
        (
            Loss(unresolved=5),
            "lost: 5 sessions ended with nobody to name as their owner",
        ),
        (
            Loss(1, 2, 3),
            (
                "lost: 1 rows found the ring buffer full, 2 sessions could not be"
                " followed for want of memory, 3 sessions ended with nobody to name"
                " as their owner"
            ),
        ),
    ],
)
def test_loss_at_the_end(
    loss: Loss, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    report = LossReport(SAY)
    report.see(loss)
    capfd.readouterr()
    report.finish()
    assert capfd.readouterr().err == (f"tcplife: {told}\n" if told else "")


def test_loss_is_told_while_it_grows_at_most_once_a_second(
    clock: FakeClock, capfd: pytest.CaptureFixture[str]
) -> None:
    report = LossReport(SAY)

    def told(loss: Loss, after: float) -> list[str]:
        clock.now += after
        report.see(loss)
        return [line.split()[2] for line in capfd.readouterr().err.splitlines()]

    first, second, third = Loss(1), Loss(2), Loss(3)
    assert told(Loss(), 0) == []
    assert told(first, 5) == ["1"]
    assert told(first, 5) == []  # it doesn't grow
    assert told(second, 0) == ["2"]
    assert told(third, 0.5) == []  # too early
    assert told(Loss(4), 0.5) == ["4"]


def test_stop_without_an_end(clock: FakeClock) -> None:
    stop = Stop()
    clock.now += 1e9
    assert not stop.expired()
    assert stop.remaining(0.15) == 0.15
    assert stop.fds == {}


def test_stop_after_a_time(clock: FakeClock) -> None:
    stop = Stop(2.5)
    assert stop.remaining(0.15) == 0.15
    clock.now += 2.4
    assert not stop.expired()
    assert stop.remaining(0.15) == pytest.approx(0.1)
    clock.now += 0.1
    assert stop.expired()
    assert stop.remaining(0.15) == 0
    clock.now += 5
    assert stop.remaining(0.15) == 0


def test_stop_when_nobody_reads(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stop = Stop()
    stop.when_unread(writer)
    with select.epoll() as epoll:
        for fd, events in stop.fds.items():
            epoll.register(fd, events)
        assert epoll.poll(0) == []
        os.close(reader)
        assert [fd for fd, _ in epoll.poll(0)] == [writer]


SIGNALLED = """
import os, select, signal, sys
from tcplife.pipeline.loop import Stop

number = signal.Signals[sys.argv[1]]
stop = Stop()
stop.on_signals((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
[(fd, events)] = stop.fds.items()
with select.epoll() as epoll:
    epoll.register(fd, events)
    assert epoll.poll(0) == []
    os.kill(os.getpid(), number)
    assert epoll.poll(0) == [(fd, select.EPOLLIN)]
    print("stopped", flush=True)
os.kill(os.getpid(), number)
print("survived the second one", flush=True)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_stop_at_the_first_signal_die_of_the_second(name: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SIGNALLED, name],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.stdout, ended.stderr) == ("stopped\n", "")
    assert ended.returncode == -signal.Signals[name]
