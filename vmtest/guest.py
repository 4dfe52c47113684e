"""The first program in the guest, after init: does the job, tells how it went."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from vmtest.steps import LOCKDOWN, MARK, NO_BTF, Step, Verdict

BTF = "/sys/kernel/btf"
LOCKDOWN_LEVEL = Path("/sys/kernel/security/lockdown")


def tell(**what: Any) -> None:
    print(MARK + json.dumps(what), flush=True)


class Counter:
    """A plugin of pytest's: counts tests, and the rows that they tell of."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0
        self.right = 0
        self.expected = 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed or report.skipped:  # nothing may be skipped here
            self.failed += 1
        elif report.when == "call":
            self.passed += 1
            for name, value in report.user_properties:
                if name == "rows":
                    self.right += value[0]
                    self.expected += value[1]


def run(step: Step, tier: int | None) -> Verdict:
    import pytest

    if tier is not None:
        os.environ["TCPLIFE_TIER"] = str(tier)
    began = time.monotonic()
    counter = Counter()
    options = ["-q", "--tb=short", "-p", "no:cacheprovider"]
    status = pytest.main([*options, *step.tests], plugins=[counter])
    failed = counter.failed or int(status != 0)
    return Verdict(
        step.name,
        tier,
        counter.passed,
        failed,
        counter.right,
        counter.expected,
        round(time.monotonic() - began, 1),
    )


def run_apart(step: Step, tier: int | None) -> None:
    """In a process of its own: a step's modules and environment go with it."""
    tell(begin=f"{step.name}, tier {tier or 'best'}")
    sys.stdout.flush()
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        if status:
            tell(verdict=Verdict(step.name, tier, 0, 1, 0, 0, 0.0))
        return
    status = 1
    try:
        tell(verdict=run(step, tier))
        status = 0
    finally:
        sys.stdout.flush()
        os._exit(status)


def do(job: dict[str, Any]) -> None:
    if "exec" in job:
        tell(begin="exec")
        done = subprocess.run(["/bin/sh", "-c", job["exec"]], check=False)
        tell(status=done.returncode)
        return
    # Once, for all the processes that are forked.
    import pytest  # noqa: F401

    for words, tier in job["runs"]:
        step = Step(*words)
        if step.setting == NO_BTF:
            subprocess.run(["mount", "-t", "tmpfs", "none", BTF], check=True)
        elif step.setting == LOCKDOWN:
            LOCKDOWN_LEVEL.write_text("confidentiality")
        run_apart(step, tier)
        if step.setting == NO_BTF:
            subprocess.run(["umount", BTF], check=True)
    tell(status=0)


if __name__ == "__main__":
    do(json.loads(Path("/job.json").read_text()))
