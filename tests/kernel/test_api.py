"""The public Python API on the real kernel."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import tcplife
from tcplife.kernel.open_sockets import Walks
from tcplife.kernel.program import LoadError

from .netns import Network
from .scenarios import Link, Stage, exchanged, part


@contextmanager
def link_on(network: Network, family: str = "ipv4") -> Iterator[Link]:
    stage = Stage(network, family)
    try:
        yield exchanged(stage)
    finally:
        stage.close()


def bpf_descriptors() -> list[str]:
    """What keeps programs attached and maps alive."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # the folder's own
            continue
        if "bpf" in target:
            found.append(target)
    return found


@pytest.mark.parametrize("family", ["ipv4", "ipv6", "mapped"])
def test_sessions(network: Network, family: str) -> None:
    with link_on(network, family) as link:
        ports = [link.server_port]
        with tcplife.trace(remote_ports=ports, all=True, timeout=30) as found:
            part(link.client, link.server)
            session = next(iter(found))
        end = link.client_end()
    assert (session.laddr, session.lport, session.raddr, session.rport) == end.key
    assert (session.pid, session.comm) == (end.pid, end.comm)
    assert (session.tx_bytes, session.rx_bytes) == (100, 200)
    assert (session.dir, session.end, session.first) == ("out", "closed", "local")
    assert (session.born, session.ip) == ("before-trace", 6 if family == "ipv6" else 4)
    assert found.loss.total() == 0
    assert bpf_descriptors() == []


def test_state_changes(network: Network) -> None:
    with (
        link_on(network) as link,
        tcplife.trace_states(local_ports=[link.client_port]) as found,
    ):
        part(link.client, link.server)
        changes = iter(found)
        seen = [next(changes) for _ in range(3)]
    states = ["ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2", "CLOSE"]
    assert [change.oldstate for change in seen] == states[:-1]
    assert [change.newstate for change in seen] == states[1:]
    assert seen[0].ms is None
    assert all(change.ms is not None for change in seen[1:])
    assert bpf_descriptors() == []


def test_open_sessions(network: Network) -> None:
    with link_on(network) as link:
        ports = [link.client_port, link.server_port]
        found = tcplife.open_sessions(local_ports=ports)
        ends = {end.key: end for end in link.ends()}
    assert {(s.laddr, s.lport, s.raddr, s.rport) for s in found} == set(ends)
    assert {s.end for s in found} == {"open"}
    assert {s.pid for s in found} == {end.pid for end in ends.values()}
    assert bpf_descriptors() == []


def test_asyncio(network: Network) -> None:
    async def first(port: int) -> tcplife.Session:
        async with tcplife.trace(remote_ports=[port], all=True) as found:
            loop = asyncio.get_running_loop()
            closing = loop.run_in_executor(None, part, link.client, link.server)
            async for session in found:
                await closing
                return session
        raise AssertionError("it ended without a session")

    with link_on(network) as link:
        session = asyncio.run(first(link.server_port))
    assert session.lport == link.client_port
    assert bpf_descriptors() == []


def test_cancelled(network: Network) -> None:
    async def forever() -> None:
        async with tcplife.trace(remote_ports=[1]) as found:
            async for _ in found:
                pass

    async def cancel() -> None:
        task = asyncio.create_task(forever())
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert bpf_descriptors() == []


def test_stop_from_another_thread(network: Network) -> None:
    with tcplife.trace(remote_ports=[1]) as found:
        threading.Timer(0.3, found.stop).start()
        assert list(found) == []
    assert bpf_descriptors() == []


def test_a_start_that_fails_leaves_nothing(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Walks) -> None:
        assert bpf_descriptors()
        raise LoadError("tcplife_full: note_sessions: refused")

    monkeypatch.setattr(Walks, "note", fail)
    with pytest.raises(tcplife.UnavailableError, match="note_sessions: refused"):
        tcplife.trace(all=True)
    assert bpf_descriptors() == []


def test_never_iterated(network: Network) -> None:
    tcplife.trace().close()
    with tcplife.trace() as found:
        found.close()
    assert bpf_descriptors() == []
