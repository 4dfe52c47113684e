"""A kernel without BTF: one line says so; with its BTF in a file, tracing works."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from kernel.test_lifecycle import MINE, play
from kernel.tracer import OURS, ours

from vmtest import steps

# Those that attach by name, not by the kernel's BTF.
TIERS = [int(tier) for tier in os.environ[steps.TIERS].split(",") if int(tier) > 2]


def test_it_is_hidden() -> None:
    assert not list(Path("/sys/kernel/btf").iterdir())


def test_one_line_says_so() -> None:
    done = subprocess.run(
        [*OURS, "--duration", "1"], check=False, capture_output=True, text=True
    )
    print(done.stderr)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "BTF" in line


@pytest.mark.parametrize("tier", TIERS)
def test_a_file_does_instead(tier: int) -> None:
    # Saved while it was to be seen; see vmtest/init.sh.
    options = ("--btf", "/run/vmlinux.btf", "--tier", str(tier))
    with ours("--json", *MINE, *options) as tracer:
        keys = play(20)
        assert tracer.stop() == 0
        assert tracer.rows().keys() == keys
