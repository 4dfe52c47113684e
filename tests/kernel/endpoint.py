"""Plays a client or a server, one order at a time.

Run as a program: `endpoint.py COMM`. Reads orders from standard input, one JSON
list a line, [command, argument...], and answers each on standard output with
["ok", value] or ["error", errno, text]. Sockets are known by the names that the
orders give them. See remote.py for the other end.
"""

from __future__ import annotations

import array
import errno
import fcntl
import json
import os
import resource
import select
import socket
import struct
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

LINGER_0 = struct.pack("ii", 1, 0)
BACKLOG = 4096
# Where they are, and how wide.
TCP_INFO = {
    "snd_mss": (16, 4),
    "rtt": (68, 4),
    "total_retrans": (100, 4),
    "segs_out": (136, 4),
    "segs_in": (140, 4),
    "min_rtt": (148, 4),
    "bytes_retrans": (208, 8),
}

sockets: dict[str, socket.socket] = {}
crowd: list[socket.socket] = []


def set_comm(comm: str) -> None:
    """Name the calling thread; names no file system would take are fine."""
    Path("/proc/thread-self/comm").write_bytes(os.fsencode(comm))


def make_socket(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return sock


def listen(name: str, host: str, port: int = 0) -> int:
    sock = sockets[name] = make_socket(host)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    sock.listen(BACKLOG)
    return int(sock.getsockname()[1])


def connect(name: str, host: str, port: int) -> int:
    """Return the local port."""
    sock = sockets[name] = make_socket(host)
    sock.connect((host, port))
    return local_port(name)


def begin_connect(name: str, host: str, port: int) -> int:
    """Return the local port, with no answer from the peer yet."""
    sock = sockets[name] = make_socket(host)
    sock.setblocking(False)
    sock.connect_ex((host, port))
    return local_port(name)


def local_port(name: str) -> int:
    return int(sockets[name].getsockname()[1])


def accept(listener: str, name: str) -> None:
    sockets[name], _ = sockets[listener].accept()


def send(name: str, size: int, times: int = 1) -> None:
    data = bytes(size)
    for _ in range(times):
        sockets[name].sendall(data)


def await_acks(name: str) -> None:
    """Return once the peer has acknowledged all that was sent, FIN included."""
    unacked = array.array("i", [1])
    deadline = time.monotonic() + 10
    while unacked[0]:
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, f"{unacked[0]} bytes not acknowledged")
        time.sleep(0.001)
        fcntl.ioctl(sockets[name], termios.TIOCOUTQ, unacked)


def recv(name: str, size: int) -> None:
    while size:
        got = len(sockets[name].recv(min(size, 1 << 20)))
        if not got:
            raise EOFError(f"{size} bytes short")
        size -= got


def recv_eof(name: str) -> int:
    total = 0
    while got := len(sockets[name].recv(1 << 20)):
        total += got
    return total


def await_end(name: str) -> None:
    """Wait, reading nothing, until the session is over in both directions."""
    poll = select.poll()
    poll.register(sockets[name], 0)
    if not poll.poll(10_000):
        raise TimeoutError(errno.ETIMEDOUT, "the session does not end")


def set_user_timeout(name: str, milliseconds: int) -> None:
    sockets[name].setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def keep_alive(name: str) -> None:
    """Give the peer 2 s to show that it is alive."""
    sock = sockets[name]
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
        sock.setsockopt(socket.IPPROTO_TCP, option, 1)


def set_mss(name: str, size: int) -> None:
    sockets[name].setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, size)


def set_congestion(name: str, algorithm: str) -> None:
    option = socket.TCP_CONGESTION
    sockets[name].setsockopt(socket.IPPROTO_TCP, option, algorithm.encode())


def info(name: str) -> dict[str, Any]:
    """What the kernel counts, by the names of struct tcp_info (linux/tcp.h)."""
    sock = sockets[name]
    raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 216)
    found: dict[str, Any] = {
        field: int.from_bytes(raw[at : at + size], sys.byteorder)
        for field, (at, size) in TCP_INFO.items()
    }
    algorithm = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    found["congestion"] = algorithm.split(b"\0")[0].decode()
    return found


def shutdown(name: str) -> None:
    sockets[name].shutdown(socket.SHUT_WR)


def shutdown_both(name: str) -> None:
    sockets[name].shutdown(socket.SHUT_RDWR)


def close(name: str) -> None:
    sockets.pop(name).close()


def reset(name: str) -> None:
    sockets[name].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
    close(name)


def fork(comm: str) -> int:
    """Let a child take over the sockets and the orders; return its PID."""
    closed, report_closed = os.pipe()
    if child := os.fork():
        for sock in sockets.values():
            sock.close()
        os.write(report_closed, b"x")
        os.waitpid(child, 0)
        os._exit(0)
    os.read(closed, 1)
    set_comm(comm)
    return os.getpid()


def hand_listen(address: str) -> None:
    """Be ready to take a socket at this abstract UNIX address."""
    sock = sockets[address] = socket.socket(socket.AF_UNIX)
    sock.bind("\0" + address)
    sock.listen()


def hand_over(name: str, address: str) -> None:
    lend(name, address)
    close(name)


def lend(name: str, address: str) -> None:
    """Hand it over, and keep it as well."""
    with socket.socket(socket.AF_UNIX) as carrier:
        carrier.connect("\0" + address)
        socket.send_fds(carrier, [b"x"], [sockets[name].fileno()])


def hand_take(name: str, address: str) -> None:
    with sockets.pop(address) as listener:
        carrier, _ = listener.accept()
    with carrier:
        _, fds, _, _ = socket.recv_fds(carrier, 1, 1)
    sockets[name] = socket.socket(fileno=fds[0])


def in_thread(comm: str, command: str, *arguments: Any) -> Any:
    """Carry out an order in a thread with a name of its own."""
    with ThreadPoolExecutor(1, initializer=set_comm, initargs=(comm,)) as pool:
        return pool.submit(COMMANDS[command], *arguments).result()


def become(user: int) -> None:
    """Go on as this user."""
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def raise_files_limit(count: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(hard, count)))


def connect_many(host: str, port: int, count: int) -> None:
    """Open sessions and keep them."""
    for _ in range(count):
        sock = make_socket(host)
        sock.connect((host, port))
        crowd.append(sock)


def accept_many(listener: str, count: int) -> None:
    for _ in range(count):
        crowd.append(sockets[listener].accept()[0])


def close_many(count: int | None = None) -> None:
    """Close the oldest of them, or all."""
    for sock in crowd[:count]:
        sock.close()
    del crowd[:count]


COMMANDS = {
    function.__name__: function
    for function in (
        listen,
        connect,
        begin_connect,
        local_port,
        accept,
        send,
        await_acks,
        recv,
        recv_eof,
        await_end,
        set_user_timeout,
        keep_alive,
        set_mss,
        set_congestion,
        info,
        shutdown,
        shutdown_both,
        close,
        reset,
        fork,
        hand_listen,
        hand_over,
        lend,
        hand_take,
        in_thread,
        become,
        raise_files_limit,
        connect_many,
        accept_many,
        close_many,
    )
}


def obey(command: str, arguments: Any) -> Any:
    try:
        return "ok", COMMANDS[command](*arguments)
    except OSError as error:
        return "error", error.errno, str(error)


def main() -> None:
    set_comm(sys.argv[1])
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        print(json.dumps(obey(command, arguments)), flush=True)


if __name__ == "__main__":
    main()
