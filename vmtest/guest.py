"""The first program in the guest, after init: does the job, tells how it went."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vmtest.steps import (
    CONFIDENTIALITY,
    COUNTED,
    INTEGRITY,
    MARK,
    NO_BTF,
    TIERS,
    Rows,
    Step,
    Verdict,
)

BTF = "/sys/kernel/btf"
LOCKDOWN = Path("/sys/kernel/security/lockdown")


def tell(**what: Any) -> None:
    # On a line of its own, however the output before it has ended.
    print(f"\n{MARK}{json.dumps(what)}", flush=True)


class Counter:
    """A plugin of pytest's: counts tests, and the rows that they tell of."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0
        self.rows: list[Rows] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed or report.skipped:  # nothing may be skipped here
            self.failed += 1
        elif report.when == "call":
            self.passed += 1
        if report.when == "call":
            self.rows += [
                Rows(name, *value)
                for name, value in report.user_properties
                if name in COUNTED
            ]


def run(step: Step) -> Verdict:
    import pytest

    began = time.monotonic()
    counter = Counter()
    status = pytest.main(
        ["-q", "--tb=short", "-p", "no:cacheprovider", *step.tests], plugins=[counter]
    )
    return Verdict(
        step.name,
        counter.passed,
        counter.failed or int(status != 0),
        counter.rows,
        round(time.monotonic() - began, 1),
    )


def run_apart(step: Step) -> None:
    """In a process of its own: what a step imports and sets goes with it."""
    tell(begin=step.name)
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        if status:
            tell(verdict=Verdict(step.name, 0, 1, [], 0.0))
        return
    status = 1
    try:
        tell(verdict=run(step))
        status = 0
    finally:
        sys.stdout.flush()
        os._exit(status)


def run_all(steps: Sequence[Step]) -> None:
    # Once, for all the processes that are forked.
    import pytest  # noqa: F401

    for step in steps:
        if step.setting == NO_BTF:
            subprocess.run(["mount", "-t", "tmpfs", "none", BTF], check=True)
        elif step.setting in (INTEGRITY, CONFIDENTIALITY):
            LOCKDOWN.write_text(step.setting)
        run_apart(step)
        if step.setting == NO_BTF:
            subprocess.run(["umount", BTF], check=True)


def main() -> None:
    job = json.loads(Path("/job.json").read_text())
    status = 0
    if "exec" in job:
        tell(begin="exec")
        argv = ["/bin/sh", "-c", job["exec"]]
        status = subprocess.run(argv, check=False).returncode
    else:
        os.environ[TIERS] = ",".join(map(str, job["tiers"]))
        run_all([Step(*fields) for fields in job["steps"]])
    tell(status=status)


if __name__ == "__main__":
    main()
