"""`tcplife --check` says which tiers this kernel has."""

from __future__ import annotations

import os
import re
import subprocess

from kernel.tracer import OURS

from vmtest import steps


def test_check_names_the_tiers_that_work() -> None:
    done = subprocess.run(
        [*OURS, "--check"], check=False, capture_output=True, text=True
    )
    print(done.stdout, done.stderr)
    works = re.findall(r"^yes +tier (\d+)", done.stdout, re.MULTILINE)
    assert ",".join(works) == os.environ[steps.TIERS]
    assert done.returncode == 0
