"""Carries packets between two network namespaces, late or not at all.

Run as a program, in the one namespace: `relay.py OTHER`. Takes orders as
endpoint.py does. Each namespace has one end, the TUN device `wire0`. In user
space, because not every kernel has netem; and so it is known how exact it was.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import random
import select
import struct
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

DEVICE = b"wire0"
# linux/if_tun.h
TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
MTU = 1500
# Seeded: of as many packets, it is the same ones that are lost.
CHANCE = random.Random(5)


def open_end(namespace: str = "") -> int:
    if namespace:
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/run/netns", namespace).open() as file:
            if libc.setns(file.fileno(), 0):
                raise OSError(ctypes.get_errno(), "setns")
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", DEVICE, IFF_TUN | IFF_NO_PI))
    return end


class Relay:
    def __init__(self, ends: tuple[int, int]) -> None:
        self.to = dict(zip(ends, reversed(ends), strict=True))
        self.waiting: deque[tuple[float, int, bytes]] = deque()
        self.seconds = 0.0
        self.loss = 0.0
        self.doomed: list[int] = []
        self.held = False
        self.worst = 0.0

    def delay(self, milliseconds: float) -> None:
        """Of each packet from now on, each way."""
        self.seconds = milliseconds / 1000

    def lose(self, share: float) -> None:
        """This share of all packets, chosen by a fixed seed."""
        self.loss = share

    def lose_next(self, *doomed: int) -> None:
        """Of the TCP packets to come, those that are doomed, counted from 0."""
        self.doomed = sorted(doomed)

    def hold(self) -> None:
        self.held = True

    def held_back(self) -> int:
        return len(self.waiting)

    def release(self) -> None:
        self.held = False
        now = time.monotonic()
        self.waiting = deque((now, end, packet) for _, end, packet in self.waiting)

    def lateness(self) -> float:
        """The worst delay so far, in milliseconds, beyond what was asked for."""
        return self.worst * 1000

    def take(self, end: int) -> None:
        with suppress(BlockingIOError):
            while packet := os.read(end, MTU):
                if not self.loses(packet):
                    due = time.monotonic() + self.seconds
                    self.waiting.append((due, self.to[end], packet))

    def loses(self, packet: bytes) -> bool:
        # IPv6 speaks of neighbours, too, whenever it likes.
        if packet[9 if packet[0] >> 4 == 4 else 6] != 6:
            return True
        if self.doomed:
            self.doomed = [number - 1 for number in self.doomed]
            if self.doomed[0] < 0:
                del self.doomed[0]
                return True
        return CHANCE.random() < self.loss

    def give(self) -> None:
        """Pass on what is due."""
        while self.waiting and not self.held:
            due, end, packet = self.waiting[0]
            late = time.monotonic() - due
            if late < 0:
                break
            self.waiting.popleft()
            os.write(end, packet)
            self.worst = max(self.worst, late)

    def patience(self) -> float | None:
        if not self.waiting or self.held:
            return None
        return max(0.0, self.waiting[0][0] - time.monotonic())

    def run(self) -> None:
        while True:
            for file in select.select([0, *self.to], [], [], self.patience())[0]:
                if file:
                    self.take(file)
                elif line := sys.stdin.readline():
                    order, *arguments = json.loads(line)
                    print(json.dumps(["ok", getattr(self, order)(*arguments)]))
                    sys.stdout.flush()
                else:
                    return
            self.give()


def main() -> None:
    # A packet that is due does not wait for others' turns, where that can be had.
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    Relay((open_end(), open_end(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
