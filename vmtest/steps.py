"""What is run in each guest. Shared by the host, which chooses, and the guest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class Step(NamedTuple):
    """A run of pytest in the guest.

    name: for the table; tests: pytest's arguments; each_tier: whether it runs once
    for each tier of the kernel's; setting: what the guest is made first.
    """

    name: str
    tests: tuple[str, ...]
    each_tier: bool = True
    setting: str = ""


NO_BTF = "no-btf"  # /sys/kernel/btf hidden, for this step
LOCKDOWN = "lockdown"  # the kernel locked down, from this step on

STEPS = (
    Step("owner and bytes", ("tests/kernel/test_sessions.py",)),
    Step("tcpstates", ("tests/kernel/test_states.py",)),
    Step("no BTF", ("vmtest/cases/test_no_btf.py",), False, NO_BTF),
    # The last: there is no way back.
    Step("lockdown", ("vmtest/cases/test_lockdown.py",), False, LOCKDOWN),
)


class Verdict(NamedTuple):
    """How a step went. tier: as forced, or None for what the tool chose."""

    step: str
    tier: int | None
    passed: int
    failed: int
    right: int
    expected: int
    seconds: float

    @property
    def good(self) -> bool:
        return self.passed > 0 and not self.failed and self.right == self.expected


# A line of the guest's console that is not output but one of these, in JSON:
# {"begin": title}, {"verdict": [...]}, {"status": exit status}.
MARK = "@vmtest "


def runs(
    tiers: Iterable[int], only: str | None = None
) -> list[tuple[Step, int | None]]:
    """Steps, each with the tier to force."""
    chosen: list[int | None] = [*tiers] or [None]
    return [
        (step, tier)
        for step in STEPS
        if only in (None, step.name)
        for tier in (chosen if step.each_tier else [None])
    ]


Job = dict[str, Any]  # {"runs": [[step, tier]...]} or {"exec": command}
