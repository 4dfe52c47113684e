"""The public Python API; `import tcplife` has all of it. See docs/api.md."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Sequence
from math import ceil
from typing import Generic, Literal, TypeVar, Union

from tcplife.columns.compile import each_origin
from tcplife.columns.objects import compile_records
from tcplife.columns.sessions import HOST, SESSION_COLUMNS
from tcplife.columns.states import STATE_COLUMNS
from tcplife.columns.styles import known
from tcplife.errors import RecordingError, UsageError
from tcplife.filters import match, parse
from tcplife.filters.filter import Filter
from tcplife.pipeline.loop import Stop
from tcplife.records.batch import Loss
from tcplife.records.session import Direction, Session, StateChange
from tcplife.records.wire import STATE_CHANGE, STORY, Wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from tcplife.columns.column import Columns
    from tcplife.kernel.source import KernelSource

    class Source(Protocol):
        """Where records come from, other than this host's kernel."""

        @property
        def loss(self) -> Loss: ...

        def chunks(self) -> Iterator[Sequence[Session | StateChange]]:
            """Some records at a time, in their order."""


Port = Union[int, range, "tuple[int, int]"]


# The lifespan's field, by who sends the records.
BORN = {STORY.sender: "span_us", STATE_CHANGE.sender: ""}

Record = TypeVar("Record", Session, StateChange)


class Trace(Generic[Record]):
    """Records as they come: iterate over it, with `for` or `async for`.

    It is a context manager, with `with` or `async with`, whose end ends the tracing;
    so does close(), from any thread.
    """

    def __init__(
        self,
        chunks: Generator[Sequence[Record], None, None],
        stop: Stop,
        kernel: KernelSource | None,
    ) -> None:
        self._chunks: Generator[Sequence[Record], None, None] = chunks
        self._stop = stop
        self._kernel = kernel
        self._loss = Loss()

    @property
    def loss(self) -> Loss:
        """What could not be told so far: it grows, and is whole at the end."""
        return self._loss

    def __iter__(self) -> Iterator[Record]:
        for chunk in self._chunks:
            yield from chunk

    async def __aiter__(self) -> AsyncIterator[Record]:
        loop = asyncio.get_running_loop()
        while True:
            # A thread waits; the event loop goes on.
            waiting = loop.run_in_executor(None, next, self._chunks, None)
            try:
                chunk = await asyncio.shield(waiting)
            except asyncio.CancelledError:
                self._stop.now()
                await waiting
                raise
            if chunk is None:
                return
            for record in chunk:
                yield record

    def stop(self) -> None:
        """Ends the tracing; what was seen by now still comes. From any thread."""
        self._stop.now()

    def close(self) -> None:
        """Ends the tracing at once."""
        self._stop.now()
        try:
            self._chunks.close()
        except ValueError:
            return  # another thread is in it: that closes all at its end, now
        if self._kernel:  # for one that nobody has iterated over
            self._kernel.close()

    def __enter__(self) -> Trace[Record]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Trace[Record]:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


def trace(
    *,
    pids: Iterable[int] = (),
    local_ports: Iterable[Port] = (),
    remote_ports: Iterable[Port] = (),
    family: Literal[4, 6] | None = None,
    laddr: Iterable[str] = (),
    raddr: Iterable[str] = (),
    comms: Iterable[str] = (),
    users: Iterable[int | str] = (),
    netns: Iterable[int | str] = (),
    cgroup: str | None = None,
    dir: Direction | None = None,  # noqa: A002  the column's name
    ends: Iterable[str] = (),
    min_ms: float = 0,
    min_bytes: int = 0,
    slower_connect_ms: float = 0,
    all: bool = False,  # noqa: A002  the command's option
    timeout: float | None = None,
    source: Source | None = None,
) -> Trace[Session]:
    """Traces TCP sessions, from now on: each that ends.

    The arguments are those of the command tcplife: all must hold; empty means any.
    all: those that are open already as well, and at the end those that still are.
    timeout: seconds after which it ends. source: another than this host's kernel,
    such as tcplife.FakeSource.

    Raises UsageError for a bad argument, UnavailableError where the host does not
    allow tracing.
    """
    wanted = _filter(
        pids=pids,
        local_ports=local_ports,
        remote_ports=remote_ports,
        family=family,
        laddr=laddr,
        raddr=raddr,
        comms=comms,
        users=users,
        netns=netns,
        cgroup=cgroup,
        dir=dir,
        ends=ends,
        min_ms=min_ms,
        min_bytes=min_bytes,
        slower_connect_ms=slower_connect_ms,
    )
    scope = "all" if all else "new"
    if source:
        return _from_source(source, wanted, timeout, Session)
    return _from_kernel(STORY, SESSION_COLUMNS, Session, wanted, scope, timeout)


def open_sessions(
    *,
    pids: Iterable[int] = (),
    local_ports: Iterable[Port] = (),
    remote_ports: Iterable[Port] = (),
    family: Literal[4, 6] | None = None,
    laddr: Iterable[str] = (),
    raddr: Iterable[str] = (),
    comms: Iterable[str] = (),
    users: Iterable[int | str] = (),
    netns: Iterable[int | str] = (),
    cgroup: str | None = None,
    dir: Direction | None = None,  # noqa: A002
) -> list[Session]:
    """The TCP sessions that are open now. Arguments and errors as for trace()."""
    wanted = _filter(
        pids=pids,
        local_ports=local_ports,
        remote_ports=remote_ports,
        family=family,
        laddr=laddr,
        raddr=raddr,
        comms=comms,
        users=users,
        netns=netns,
        cgroup=cgroup,
        dir=dir,
    )
    with _from_kernel(STORY, SESSION_COLUMNS, Session, wanted, "open", None) as found:
        return list(found)


def trace_states(
    *,
    pids: Iterable[int] = (),
    local_ports: Iterable[Port] = (),
    remote_ports: Iterable[Port] = (),
    family: Literal[4, 6] | None = None,
    states: Iterable[str] = (),
    timeout: float | None = None,
    source: Source | None = None,
) -> Trace[StateChange]:
    """Traces changes of TCP sockets' states, from now on.

    states: only changes out of or into these. The rest, and errors, as for trace().
    """
    wanted = _filter(
        pids=pids,
        local_ports=local_ports,
        remote_ports=remote_ports,
        family=family,
        states=states,
    )
    if source:
        return _from_source(source, wanted, timeout, StateChange)
    return _from_kernel(
        STATE_CHANGE, STATE_COLUMNS, StateChange, wanted, "new", timeout
    )


def replay(
    files: Iterable[str | os.PathLike[str]],
    *,
    pids: Iterable[int] = (),
    local_ports: Iterable[Port] = (),
    remote_ports: Iterable[Port] = (),
    family: Literal[4, 6] | None = None,
    laddr: Iterable[str] = (),
    raddr: Iterable[str] = (),
    comms: Iterable[str] = (),
    users: Iterable[int | str] = (),
    netns: Iterable[int] = (),
    cgroup: str | None = None,
    dir: Direction | None = None,  # noqa: A002
    ends: Iterable[str] = (),
    min_ms: float = 0,
    min_bytes: int = 0,
    slower_connect_ms: float = 0,
) -> Trace[Session]:
    """The sessions in recordings, of several merged by time. Without root.

    The arguments are those of trace(); but users may be names that only the recording
    knows, netns are inodes, and cgroup is a path below the root of its hierarchy.

    Raises UsageError for a bad argument; and, once all has come that can be read,
    RecordingError for what could not be.
    """
    ids, names = parse.recorded_users(",".join(map(str, _listed("users", users))))
    wanted = _filter(
        pids=pids,
        local_ports=local_ports,
        remote_ports=remote_ports,
        family=family,
        laddr=laddr,
        raddr=raddr,
        comms=comms,
        dir=dir,
        ends=ends,
        min_ms=min_ms,
        min_bytes=min_bytes,
        slower_connect_ms=slower_connect_ms,
    )
    wanted.uids = ids
    wanted.users = [name for name in names if name]
    wanted.namespaces = list(map(int, _listed("netns", netns)))
    wanted.cgroup = parse.recorded_cgroup(cgroup) if cgroup else ""
    return _from_files(files, STORY, SESSION_COLUMNS, Session, wanted)


def replay_states(
    files: Iterable[str | os.PathLike[str]],
    *,
    pids: Iterable[int] = (),
    local_ports: Iterable[Port] = (),
    remote_ports: Iterable[Port] = (),
    family: Literal[4, 6] | None = None,
    states: Iterable[str] = (),
) -> Trace[StateChange]:
    """The changes of state in recordings; as replay(), and as trace_states()."""
    wanted = _filter(
        pids=pids,
        local_ports=local_ports,
        remote_ports=remote_ports,
        family=family,
        states=states,
    )
    return _from_files(files, STATE_CHANGE, STATE_COLUMNS, StateChange, wanted)


class FakeSource:
    """Records to test with, without root: `trace(source=FakeSource([...]))`.

    trace() and trace_states() apply their filters to them as the kernel would; then
    the trace ends. loss: what the trace shall say was lost. It may be used again.
    """

    def __init__(
        self, records: Iterable[Session | StateChange], loss: Loss | None = None
    ) -> None:
        self._records = list(records)
        self._loss = loss or Loss()

    @property
    def loss(self) -> Loss:
        return self._loss

    def chunks(self) -> Iterator[Sequence[Session | StateChange]]:
        yield self._records


def _from_kernel(
    wire: Wire,
    columns: Columns,
    kind: type[Record],
    wanted: Filter,
    scope: str,
    timeout: float | None,
) -> Trace[Record]:
    from tcplife.kernel.source import KernelSource

    stop = Stop(_timeout(timeout))
    paths = wire is STORY
    kernel = KernelSource(wire, wanted, scope=scope, paths=paths)
    lookups = kernel.origin.lookups
    records = compile_records(wire, columns, kind, BORN[wire.sender], lookups)

    def chunks() -> Generator[Sequence[Record], None, None]:
        with kernel:
            for batch in kernel.batches(stop):
                found._loss = batch.loss
                if batch.data:
                    yield records(batch.data, batch.wall_offset)

    found: Trace[Record] = Trace(chunks(), stop, kernel)
    return found


def _from_files(
    files: Iterable[str | os.PathLike[str]],
    wire: Wire,
    columns: Columns,
    kind: type[Record],
    wanted: Filter,
) -> Trace[Record]:
    from tcplife.filters.select import compile_filter
    from tcplife.recording.merge import RecordingSource

    paths = [os.fspath(file) for file in _listed("files", files)]
    replayed = RecordingSource(paths, wire.sender, named="files=")
    stop = Stop()
    columns = {**columns, "host": HOST}
    born = BORN[wire.sender]
    selects = each_origin(lambda origin: compile_filter(wire, wanted, born, origin))
    decoders = each_origin(
        lambda origin: compile_records(
            wire, known(wire, columns, origin.missing), kind, born, origin.lookups
        )
    )

    def chunks() -> Generator[Sequence[Record], None, None]:
        for batch in replayed.batches():
            if stop.expired():
                return
            found._loss = batch.loss
            select = selects[batch.origin]
            data = select(batch.data) if select else batch.data
            if data:
                yield decoders[batch.origin](data, batch.wall_offset)
        if replayed.problems:
            raise RecordingError("; ".join(replayed.problems))

    found: Trace[Record] = Trace(chunks(), stop, None)
    return found


def _from_source(
    source: Source, wanted: Filter, timeout: float | None, kind: type[Record]
) -> Trace[Record]:
    stop = Stop(_timeout(timeout))

    def chunks() -> Generator[Sequence[Record], None, None]:
        for chunk in source.chunks():
            if stop.expired():
                return
            yield [
                record
                for record in chunk
                if isinstance(record, kind) and match.matches(wanted, record)
            ]
        found._loss = source.loss

    found: Trace[Record] = Trace(chunks(), stop, None)
    return found


def _timeout(seconds: float | None) -> float | None:
    if seconds is not None and not 0 < seconds <= 1e9:
        raise UsageError(f"timeout={seconds}: give seconds, more than 0, or None")
    return seconds


def _filter(
    *,
    pids: Iterable[int],
    local_ports: Iterable[Port],
    remote_ports: Iterable[Port],
    family: int | None,
    laddr: Iterable[str] = (),
    raddr: Iterable[str] = (),
    comms: Iterable[str] = (),
    users: Iterable[int | str] = (),
    netns: Iterable[int | str] = (),
    cgroup: str | None = None,
    dir: str | None = None,  # noqa: A002
    ends: Iterable[str] = (),
    min_ms: float = 0,
    min_bytes: float = 0,
    slower_connect_ms: float = 0,
    states: Iterable[str] = (),
) -> Filter:
    """As the command line has it, so that there is one check of each value."""
    if family not in (None, 4, 6):
        raise UsageError(f"family={family}: there are 4, 6 and None")
    return Filter(
        pids=_parsed(parse.parse_pids, "pids", pids),
        local_ports=_parsed(
            parse.parse_ports,
            "local_ports",
            map(_port, _listed("local_ports", local_ports)),
        ),
        remote_ports=_parsed(
            parse.parse_ports,
            "remote_ports",
            map(_port, _listed("remote_ports", remote_ports)),
        ),
        family=family or 0,
        states=_parsed(parse.parse_states, "states", states),
        local_subnets=_parsed(parse.parse_subnets, "laddr", laddr),
        remote_subnets=_parsed(parse.parse_subnets, "raddr", raddr),
        comms=[os.fsencode(comm)[:15] for comm in _listed("comms", comms)],
        uids=_parsed(parse.parse_users, "users", users),
        namespaces=_parsed(parse.parse_namespaces, "netns", netns),
        cgroup=parse.parse_cgroup("cgroup", cgroup) if cgroup else "",
        direction=parse.parse_direction("dir", dir) if dir else 0,
        ends=_parsed(parse.parse_ends, "ends", ends),
        min_us=parse.microseconds(parse.parse_amount("min_ms", str(min_ms))),
        min_bytes=ceil(parse.parse_amount("min_bytes", str(min_bytes))),
        slower_connect_us=parse.microseconds(
            parse.parse_amount("slower_connect_ms", str(slower_connect_ms))
        ),
    )


Parsed = TypeVar("Parsed")


def _parsed(
    parse: parse.Parser[Parsed], name: str, items: Iterable[object]
) -> list[Parsed]:
    text = ",".join(map(str, _listed(name, items)))
    return parse(f"{name}=", text) if text else []


Item = TypeVar("Item")


def _listed(name: str, items: Iterable[Item]) -> list[Item]:
    """What an argument has in it. Raises UsageError for a value that is no list."""
    if isinstance(items, (str, bytes, os.PathLike)) or not isinstance(items, Iterable):
        raise UsageError(f"{name}={items!r}: give a list, as in {name}=[{items!r}]")
    return list(items)


def _ports(name: str, ports: Iterable[Port]) -> list[tuple[int, int]]:
    return _parsed(parse.parse_ports, name, map(_port, _listed(name, ports)))


def _port(port: Port) -> str:
    if isinstance(port, range):
        if port.step != 1:
            raise UsageError(f"{port}: ranges of ports have no gaps")
        return f"{port.start}-{port.stop - 1}"
    return f"{port[0]}-{port[1]}" if isinstance(port, tuple) else str(port)
