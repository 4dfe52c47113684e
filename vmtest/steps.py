"""What is run in each guest. Shared by the host, which chooses, and the guest."""

from __future__ import annotations

from typing import Any, NamedTuple


class Step(NamedTuple):
    """A run of pytest in the guest.

    name: for the table; tests: pytest's arguments; ci: whether .ci/run runs it, too;
    setting: what the guest is made first.
    """

    name: str
    tests: tuple[str, ...]
    ci: bool
    setting: str = ""


NO_BTF = "no-btf"  # /sys/kernel/btf hidden, for this step
INTEGRITY = "integrity"  # the kernel locked down, from this step on
CONFIDENTIALITY = "confidentiality"

# Those of ours say themselves what is wrong: to have pytest rewrite them takes seconds.
PLAIN = "--assert=plain"
CASES = "vmtest/cases"

STEPS = (
    Step("tiers", (PLAIN, f"{CASES}/test_tiers.py"), ci=True),
    Step("check", (PLAIN, f"{CASES}/test_check.py"), ci=True),
    Step("no BTF", (PLAIN, f"{CASES}/test_no_btf.py"), ci=True, setting=NO_BTF),
    Step("busy", (PLAIN, "tests/kernel/test_busy.py"), ci=True),
    Step("tcplife", ("tests/kernel/test_sessions.py",), ci=False),
    Step("tcpstates", ("tests/kernel/test_states.py",), ci=False),
    # The last ones: there is no way back.
    Step(
        "integrity", (PLAIN, f"{CASES}/test_integrity.py"), ci=False, setting=INTEGRITY
    ),
    Step(
        "lockdown",
        (PLAIN, f"{CASES}/test_confidentiality.py"),
        ci=True,
        setting=CONFIDENTIALITY,
    ),
)

# The environment variable by which the tests know the tiers that must work: 1,2
TIERS = "VMTEST_TIERS"


class Rows(NamedTuple):
    """How many rows of a tier were right.

    what: one of COUNTED; again: sessions that had to be played again.
    """

    what: str
    tier: int
    right: int
    expected: int
    again: int


COUNTED = ("sessions", "changes")


class Verdict(NamedTuple):
    """How a step went."""

    step: str
    passed: int
    failed: int
    rows: list[Rows]
    seconds: float

    @property
    def good(self) -> bool:
        return (
            self.passed > 0
            and not self.failed
            and all(rows.right == rows.expected > 0 for rows in self.rows)
        )


def verdict(fields: list[Any]) -> Verdict:
    """From JSON."""
    found = Verdict(*fields)
    return found._replace(rows=[Rows(*each) for each in found.rows])


# A line of the guest's console that is not output but one of these, in JSON:
# {"begin": step}, {"verdict": [...]}, {"status": exit status}.
MARK = "@vmtest "

# {"steps": [[name, ...]...], "tiers": [...]} or {"exec": command}
Job = dict[str, Any]


def chosen(only: str | None, *, ci: bool) -> list[Step]:
    return [step for step in STEPS if only in (None, step.name) and (step.ci or not ci)]
