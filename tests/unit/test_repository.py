"""What is committed fits together, and the package starts fast."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import tcplife
from tcplife.columns.sessions import SESSION_COLUMNS
from tcplife.columns.values import ENDS

ROOT = Path(__file__).parents[2]
PACKAGE = Path(tcplife.__file__).parent

# Each takes milliseconds of the start, and is not needed by then.
SLOW = {
    "asyncio",
    "dataclasses",
    "importlib.metadata",
    "importlib.resources",
    "inspect",
    "ipaddress",
    "json",
    "logging",
    "pathlib",
    "shutil",
    "socket",
    "subprocess",
    "tempfile",
    "typing",
}


def imported_by(module: str) -> set[str]:
    """All modules that importing it imports, in an interpreter of its own."""
    program = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n"
        f"before = set(sys.modules)\nimport {module}\n"
        "print(*set(sys.modules) - before)"
    )
    # Without the modules that a virtual environment's site may import.
    argv = [sys.executable, "-BIS", "-c", program]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    return set(ended.stdout.split())


def test_layout_is_what_the_objects_say() -> None:
    """As `make bpf` writes it, but of the objects that are committed."""
    makefile = (ROOT / "Makefile").read_text()
    objects = re.findall(r"\$\(BPF\)/(\S+\.bpf\.o:\S+)", makefile)
    assert objects
    arguments = [f"src/tcplife/bpf/{structs}" for structs in objects]
    made = subprocess.run(
        [sys.executable, "scripts/layout.py", *arguments],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert made.stdout == (ROOT / "src/tcplife/records/abi.py").read_text()


def test_the_tested_package_is_this_repositorys() -> None:
    """An installed copy may be an old one."""
    for path in (ROOT / "src/tcplife").rglob("*"):
        if path.suffix in (".py", ".o", ".c", ".h"):
            copy = PACKAGE / path.relative_to(ROOT / "src/tcplife")
            assert copy.read_bytes() == path.read_bytes(), f"{copy} is out of date"


@pytest.mark.parametrize("module", ["cli.tcplife", "kernel.source"])
def test_start_imports_nothing_slow(module: str) -> None:
    assert imported_by(f"tcplife.{module}") & SLOW == set()


def test_only_tracing_needs_the_kernel_package() -> None:
    """--help and mistakes don't wait for it."""
    modules = imported_by("tcplife.cli.tcplife")
    assert "tcplife.sinks.lines" in modules
    assert {name for name in modules if name.startswith("tcplife.kernel")} == set()
    assert "ctypes" not in modules
    # Nor for what is recorded.
    others = ("tcplife.recording", "tcplife.export", "zlib", "sqlite3")
    assert not [name for name in modules if name.startswith(others)]


@pytest.mark.parametrize("name", ["tcplife", "tcpstates"])
def test_man_pages_say_what_the_commands_do(name: str) -> None:
    """`make man` writes them."""
    page = subprocess.run(
        [sys.executable, str(ROOT / "scripts/man.py"), name],
        env={"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert (ROOT / f"docs/{name}.8").read_text() == page


def test_each_field_says_how_exact_it_is() -> None:
    text = (ROOT / "docs/fields.md").read_text()
    rows = re.findall(r"^\| (`[^|]*) \|", text.partition("## end")[0], re.MULTILINE)
    told = [name.strip("`") for row in rows for name in row.split(", ")]
    keys = [column.key for column in SESSION_COLUMNS.values() if column.key]
    assert sorted(told) == sorted(keys)


def test_each_end_is_explained() -> None:
    text = (ROOT / "docs/fields.md").read_text().partition("## end")[2]
    assert set(re.findall(r"^\| `([^`]*)` \|", text, re.MULTILINE)) >= set(ENDS)
