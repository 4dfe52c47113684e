"""A kernel locked down at `confidentiality`: one line says so, and --check does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from kernel.tracer import OURS, STATES


def test_it_is_locked_down() -> None:
    assert "[confidentiality]" in Path("/sys/kernel/security/lockdown").read_text()


@pytest.mark.parametrize("tool", [OURS, STATES], ids=["tcplife", "tcpstates"])
def test_one_line_says_so(tool: tuple[str, ...]) -> None:
    done = subprocess.run(
        [*tool, "--duration", "1"], check=False, capture_output=True, text=True
    )
    print(done.stderr)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "lockdown" in line


def test_check_names_it() -> None:
    done = subprocess.run(
        [*OURS, "--check"], check=False, capture_output=True, text=True
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 1
    assert "lockdown" in done.stdout
