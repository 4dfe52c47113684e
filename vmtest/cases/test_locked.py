"""Lockdown: tracing works at `integrity`, and one line says so at `confidentiality`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from kernel.test_lifecycle import MINE, play
from kernel.tracer import OURS, ours

from vmtest import steps

LEVEL = os.environ[steps.SETTING]


def test_it_is_locked_down() -> None:
    assert f"[{LEVEL}]" in Path("/sys/kernel/security/lockdown").read_text()


def test_integrity_leaves_it_working() -> None:
    if LEVEL != steps.INTEGRITY:
        return
    with ours("--json", *MINE) as tracer:
        keys = play(20)
        assert tracer.stop() == 0
        assert tracer.rows().keys() == keys


@pytest.mark.parametrize("option", ["--duration=1", "--check"])
def test_confidentiality_is_named(option: str) -> None:
    if LEVEL != steps.CONFIDENTIALITY:
        return
    done = subprocess.run([*OURS, option], check=False, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    assert done.returncode == 1
    assert "lockdown" in done.stdout + done.stderr
    if option != "--check":
        assert len(done.stderr.splitlines()) == 1
