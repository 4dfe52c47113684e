"""A kernel locked down at `integrity`: tracing works."""

from __future__ import annotations

from pathlib import Path

from kernel.test_lifecycle import MINE, play
from kernel.tracer import ours


def test_it_is_locked_down() -> None:
    assert "[integrity]" in Path("/sys/kernel/security/lockdown").read_text()


def test_tracing_works() -> None:
    with ours("--json", *MINE) as tracer:
        keys = play(20)
        assert tracer.stop() == 0
        assert tracer.rows().keys() == keys
