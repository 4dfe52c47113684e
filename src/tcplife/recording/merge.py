"""Several recordings as one: by time, a piece of each in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tcplife.errors import RecordingError, TcplifeError
from tcplife.recording.reader import WIRES, Recording, open_recording
from tcplife.records.batch import Batch, Loss


class File:
    """A file that may be open. Only its header is read until its time has come."""

    def __init__(self, path: str, named: str) -> None:
        """Raises UsageError, RecordingError."""
        self.path = path
        self._named = named
        recording, self.size = open_recording(path, named)
        self.told = recording.told
        self.host = recording.host
        self.wire = recording.wire
        self.scope = recording.scope
        self.trace = recording.trace
        self.began = recording.began
        # What comes through a pipe cannot be opened again.
        self._recording = recording if path == "-" or not self.size else None

    def open(self) -> Recording:
        if self._recording:
            return self._recording
        return open_recording(self.path, self._named)[0]


class RecordingSource:
    """The records of several files in the order of their time.

    problems: what could not be read, a line a file, whole at the end. loss: what the
    recorders could not tell, by now. began, ended: nanoseconds since 1970.
    """

    def __init__(
        self, paths: Sequence[str], sender: str, named: str = "--replay "
    ) -> None:
        """sender: whose records are wanted. named: where the paths were given, for
        messages. Raises UsageError."""
        self.wire = WIRES[sender]
        self.problems: list[str] = []
        self.files: list[File] = []
        self.loss = Loss()
        self._losses: dict[str, Loss] = {}
        for path in paths:
            try:
                file = File(path, named)
                if file.wire.sender != sender:
                    tool = "tcpstates" if sender != "tcpstates" else "tcplife"
                    raise RecordingError(
                        f"{path}: a recording of {tool}: {tool} --replay shows it"
                    )
            except RecordingError as error:
                self.problems.append(str(error))
            else:
                self.files.append(file)
        # In their order, where they began at the same time.
        self.files.sort(key=lambda file: file.began)
        self.began = min((file.began for file in self.files), default=0)
        self.ended = self.began
        self.total = sum(file.size for file in self.files)
        self.read = 0

    @property
    def hosts(self) -> set[str]:
        return {file.host for file in self.files}

    def batches(self) -> Iterator[Batch]:
        """Each batch; its loss is that of all recordings."""
        waiting = self.files[::-1]
        heads: list[_Head] = []
        while waiting or heads:
            while waiting and (not heads or waiting[-1].began <= heads[0].time):
                head = self._start(waiting.pop())
                if head:
                    heads.append(head)
                    heads.sort(key=_by_time)
            if not heads:
                return
            first = heads[0]
            limits = [head.time for head in heads[1:2]]
            limits += [file.began for file in waiting[-1:]]
            batch = first.take(min(limits, default=None))
            self._add_loss(first.recording, batch)
            yield batch
            if not self._advance(first):
                heads.pop(0)
            heads.sort(key=_by_time)

    def _start(self, file: File) -> _Head | None:
        try:
            head = _Head(file.open())
        except TcplifeError as error:  # it was there a moment ago
            self.problems.append(str(error))
            return None
        return head if self._advance(head) else None

    def _advance(self, head: _Head) -> bool:
        """Whether there is more. What was read is counted."""
        recording = head.recording
        before = recording.position
        problem = None
        try:
            more = head.advance()
        except RecordingError as error:  # a disk's, or a pipe's
            more = False
            problem = str(error)
        self.read += recording.position - before
        if not more:
            problem = problem or recording.problem()
            if problem:
                self.problems.append(problem)
            self.ended = max(self.ended, recording.ended)
        return more

    def _add_loss(self, recording: Recording, batch: Batch) -> None:
        """Of one trace the latest, for its files go on counting; of several all."""
        if self._losses.get(recording.trace) is not batch.loss:
            self._losses[recording.trace] = batch.loss
            each = self._losses.values()
            self.loss = Loss(
                sum(loss.events for loss in each),
                sum(loss.sessions for loss in each),
                sum(loss.unresolved for loss in each),
            )
        batch.loss = self.loss


class _Head:
    """What comes next of a recording, and when it was: nanoseconds since 1970."""

    __slots__ = ("_batch", "_batches", "_times", "recording", "time")

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.time = recording.began
        self._batches = recording.batches()
        self._batch: Batch | None = None
        self._times: list[int] = []

    def advance(self) -> bool:
        """Whether there is more."""
        if self._batch is None:
            self._batch = next(self._batches, None)
            self._times = []
        batch = self._batch
        if batch is None:
            return False
        if batch.data:
            unpacker = batch.wire.unpacker(["time_ns"])
            self.time = unpacker.unpack_from(batch.data)[0] + batch.wall_offset
        return True

    def take(self, limit: int | None) -> Batch:
        """The records up to a time; one at least, if there are any left."""
        batch, self._batch = self._batch, None
        if batch is None:
            raise ValueError("advance() did not say that there is more")
        if limit is None or len(batch) < 2:
            return batch
        if not self._times:
            unpacker = batch.wire.unpacker(["time_ns"])
            offset = batch.wall_offset
            self._times = [ns + offset for (ns,) in unpacker.iter_unpack(batch.data)]
        times = self._times
        # In one recording they need not be in order: some had to wait.
        count = next((n for n in range(1, len(times)) if times[n] > limit), len(times))
        if count < len(times):
            stride = batch.wire.stride
            rest = batch.data[count * stride :]
            self._batch = Batch(
                batch.wire, rest, batch.wall_offset, batch.loss, batch.origin
            )
            self._times = times[count:]
            batch.keep(count)
        return batch


def _by_time(head: _Head) -> int:
    return head.time
