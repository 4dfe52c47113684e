"""QEMU: boots a kernel, reads the guest's console, gives up after a time."""

from __future__ import annotations

import json
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from vmtest.steps import MARK, Verdict, verdict


class Machine(NamedTuple):
    qemu: str
    options: tuple[str, ...]
    console: str


# TCG: there is no KVM within most virtual machines, nor for another architecture.
MACHINES = {
    "amd64": Machine(
        "qemu-system-x86_64",
        # With less to emulate than `max`: an eighth of the time. It can do what
        # Debian's kernels need, and gives random numbers to those before 5.18.
        ("-cpu", "Nehalem,+rdrand"),
        # edd=off: asking the BIOS for disks takes seconds.
        "console=ttyS0 edd=off mitigations=off",
    ),
    "arm64": Machine(
        "qemu-system-aarch64",
        # -cpu max is slow: it computes pointer authentication at each call.
        ("-machine", "virt", "-cpu", "cortex-a57"),
        "console=ttyAMA0",
    ),
}
OPTIONS = (
    *("-accel", "tcg,thread=multi"),
    *("-smp", "2"),
    # test_states.py has 24 tools at once, each with a buffer of 16 MiB.
    *("-m", "2G"),
    *("-nodefaults", "-nic", "none", "-display", "none", "-serial", "stdio"),
    "-no-reboot",
)
COMMAND_LINE = "panic=-1 quiet"


class Output(NamedTuple):
    """A section of the guest's output: of a step, or what came before all."""

    title: str
    lines: list[str]


class Boot(NamedTuple):
    verdicts: list[Verdict]
    sections: list[Output]
    status: int | None  # as the guest tells it; None if it never came to that
    boot_seconds: float
    seconds: float


def boot(
    arch: str,
    image: Path,
    initramfs: Path,
    limit: float,
    show: Callable[[str], None] | None = None,
) -> Boot:
    """show: is given each line of the first step's output as it comes."""
    machine = MACHINES[arch]
    argv = [
        machine.qemu,
        *machine.options,
        *OPTIONS,
        *("-kernel", str(image), "-initrd", str(initramfs)),
        *("-append", f"{machine.console} {COMMAND_LINE}"),
    ]
    verdicts: list[Verdict] = []
    sections = [Output("boot", [])]
    status = None
    began = time.monotonic()
    booted = 0.0
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as qemu:
        assert qemu.stdout
        try:
            for line in _lines(qemu.stdout, began + limit):
                if line.startswith(MARK):
                    told = json.loads(line.removeprefix(MARK))
                    if "begin" in told:
                        booted = booted or time.monotonic() - began
                        sections.append(Output(told["begin"], []))
                    elif "verdict" in told:
                        verdicts.append(verdict(told["verdict"]))
                    else:
                        status = told["status"]
                elif line:
                    sections[-1].lines.append(line)
                    if show and status is None and len(sections) > 1:
                        show(line)
        except TimeoutError:
            sections[-1].lines.append(f"vmtest: ended after {limit:.0f} s")
        finally:
            # All that QEMU has is in memory.
            qemu.send_signal(signal.SIGKILL)
    return Boot(verdicts, sections, status, booted, time.monotonic() - began)


def _lines(stream: IO[bytes], deadline: float) -> Iterator[str]:
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            read = stream.read1(1 << 16)  # type: ignore[attr-defined]
            if not read:
                break
            *lines, pending = (pending + read).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace").rstrip("\r")
    if pending:
        yield pending.decode(errors="replace")
