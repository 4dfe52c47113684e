"""A pair of network namespaces, joined by a veth pair."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from . import remote

PREFIX = "tcplife-test-"

# A port in the set `dropped` loses its packets, whichever way they go. Shrunk
# SYN retries make a connect time out in about 2 s.
FIREWALL = """
table inet test {
    set dropped { type inet_service; }
    chain input {
        type filter hook input priority 0;
        tcp dport @dropped drop
        tcp sport @dropped drop
    }
}
"""
SYSCTLS = {
    "ipv4/tcp_syn_retries": "1",
    # No port is given twice within a test run: rows are told apart by them.
    "ipv4/ip_local_port_range": "10000 65000",
    "ipv4/tcp_tw_reuse": "0",
}


@dataclass(frozen=True)
class Host:
    namespace: str
    ipv4: str
    ipv6: str


@dataclass(frozen=True)
class Network:
    client: Host
    server: Host

    @property
    def only(self) -> tuple[str, str]:
        """The option for what is in it alone, where others' sessions may be many."""
        return "--netns", f"{self.client.namespace},{self.server.namespace}"

    def drop(self, port: int) -> None:
        """Lose every packet from or to this port, on both hosts."""
        self._firewall("add", port)

    def undrop(self, port: int) -> None:
        self._firewall("delete", port)

    def _firewall(self, verb: str, port: int) -> None:
        for host in (self.client, self.server):
            rule = f"{verb} element inet test dropped {{ {port} }}"
            remote.nursery(host).firewall(rule)


def run_in(host: Host, *argv: str, stdin: str | None = None) -> str:
    """Run a short command in a namespace; return its output."""
    return _run("ip", "netns", "exec", host.namespace, *argv, stdin=stdin)


def _run(*argv: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        argv, check=False, input=stdin, text=True, capture_output=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def network(tag: str = "") -> Iterator[Network]:
    """Make the pair; take it down again whatever happens.

    tag: tells it from others that the same process has made.
    """
    for command in ("ip", "ss", "nft"):
        if shutil.which(command) is None:
            raise RuntimeError(f"{command} not found: install iproute2 and nftables")
    _remove_leftovers()
    pid = os.getpid()
    # Addresses follow the PID too, so that test runs side by side, which see
    # each other's sessions, tell their rows apart.
    ipv4 = f"10.{pid >> 8 & 255}.{pid & 255}"
    ipv6 = f"fd00:{pid >> 16:x}:{pid & 0xFFFF:x}:"
    prefix = f"{PREFIX}{pid}-{tag}"
    hosts = [
        Host(f"{prefix}{role}", f"{ipv4}.{n}", str(ip_address(f"{ipv6}:{n}")))
        for n, role in enumerate(("client", "server"), start=1)
    ]
    try:
        for host in hosts:
            _run("ip", "netns", "add", host.namespace)
        # Both ends take the same name, each in its own namespace.
        client, server = (host.namespace for host in hosts)
        link = f"link add eth0 netns {client} type veth peer eth0 netns {server}"
        _run("ip", *link.split())
        for host in hosts:
            _configure(host)
        yield Network(*hosts)
    finally:
        for host in hosts:
            remote.close_nursery(host)
            # It may never have been made.
            subprocess.run(
                ["ip", "netns", "del", host.namespace],
                check=False,
                stderr=subprocess.DEVNULL,
            )


def _configure(host: Host) -> None:
    for arguments in (
        "link set lo up",
        "link set eth0 up",
        f"addr add {host.ipv4}/24 dev eth0",
        f"addr add {host.ipv6}/64 dev eth0 nodad",
    ):
        _run("ip", "-n", host.namespace, *arguments.split())
    for name, value in SYSCTLS.items():
        run_in(host, "tee", f"/proc/sys/net/{name}", stdin=value)
    run_in(host, "nft", "-f", "-", stdin=FIREWALL)


def _remove_leftovers() -> None:
    """Delete what a killed test run left behind."""
    for path in Path("/run/netns").glob(f"{PREFIX}*"):
        pid = path.name.removeprefix(PREFIX).split("-")[0]
        if not Path("/proc", pid).exists():
            _run("ip", "netns", "del", path.name)
