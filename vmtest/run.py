"""Runs the kernel tests on the declared kernels, each in a guest; says how it went."""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from vmtest import boot, cpio, initramfs, kernels, steps
from vmtest.kernels import MACHINES, Kernel
from vmtest.packages import Apt, PackageError

LIMIT = 1800.0  # seconds that a guest may take
AT_ONCE = 2
TAIL = 60  # lines of a step that went wrong


class Guest(NamedTuple):
    kernel: Kernel
    release: str
    image: Path
    parts: tuple[Path, ...]  # of the initramfs, but for the checkout and the job


# ---- what is needed, from the cache or made ----------------------------------


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "tcplife-vmtest")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Two that run at the same time would fetch into the same place."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write(path: Path, data: bytes) -> None:
    """Whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_bytes(data)
    partial.replace(path)


def fingerprint(*parts: str) -> str:
    """Of what goes into something that is kept: these words, and our own source."""
    digest = hashlib.sha256("\0".join(parts).encode())
    for name in ("cpio.py", "elf.py", "packages.py", "initramfs.py", "init.sh"):
        digest.update((initramfs.ROOT / "vmtest" / name).read_bytes())
    return digest.hexdigest()[:16]


def user_space(cache: Path, arch: str) -> Path:
    folder = cache / arch / "host-suite"
    apt = Apt(folder, arch)
    refreshed = folder / "fresh"
    before = refreshed.stat().st_mtime_ns if refreshed.exists() else 0
    if complaint := apt.refresh():
        raise PackageError(complaint)
    plan = folder / f"plan-{fingerprint(*initramfs.PACKAGES)}.json"
    if not plan.exists() or refreshed.stat().st_mtime_ns != before:
        for old in folder.glob("plan-*.json"):
            old.unlink()
        files = apt.download_all(initramfs.PACKAGES)
        write(plan, json.dumps([str(path) for path in files]).encode())
    packages = [Path(name) for name in json.loads(plan.read_text())]
    runner = initramfs.test_runner()
    made = folder / f"user-space-{fingerprint(*map(str, packages), *runner)}.cpio"
    if not made.exists():
        for old in folder.glob("user-space-*.cpio"):
            old.unlink()
        write(made, cpio.archive(initramfs.user_space(packages, arch)))
    return made


def prepare(cache: Path, wanted: Sequence[Kernel]) -> Iterator[Guest | str]:
    """A guest for each kernel, or why there is none."""
    with locked(cache):
        for arch in dict.fromkeys(kernel.arch for kernel in wanted):
            user = user_space(cache, arch)
            apt = Apt(cache / arch / "kernels", arch, kernels.SUITES)
            complaint = apt.refresh()
            for kernel in wanted:
                if kernel.arch != arch:
                    continue
                try:
                    yield prepare_kernel(cache, apt, kernel, user)
                except PackageError as error:
                    title = f"Linux {kernel.version} for {MACHINES[arch]}"
                    lines = [f"{title} is not to be had: {error}", complaint or ""]
                    yield "\n".join(filter(None, lines))


def prepare_kernel(cache: Path, apt: Apt, kernel: Kernel, user: Path) -> Guest:
    names = apt.search(kernels.pattern(kernel))
    problems = []
    for release, packages in kernels.releases(kernel, names).items():
        folder = cache / kernel.arch / "kernels" / release
        mark = fingerprint(*packages)
        image, modules = folder / "vmlinuz", folder / f"modules-{mark}.cpio"
        if not (image.exists() and modules.exists()):
            shutil.rmtree(folder, ignore_errors=True)
            try:
                fetched = apt.download(folder, packages)
            except PackageError as error:
                # The index may name what the mirror no longer has.
                problems.append(str(error))
                continue
            data, tree = initramfs.kernel(fetched)
            write(image, data)
            write(modules, cpio.archive(tree))
            for package in fetched:
                package.unlink()
        return Guest(kernel, release, image, (user, modules))
    raise PackageError(problems[0] if problems else "the archive has none")


# ---- running -----------------------------------------------------------------


def run_guest(
    guest: Guest,
    checkout: bytes,
    job: steps.Job,
    show: Callable[[str], None] | None = None,
) -> boot.Boot:
    described = cpio.archive({"job.json": cpio.file(json.dumps(job).encode())})
    with tempfile.NamedTemporaryFile(suffix=".cpio") as file:
        for part in guest.parts:
            file.write(part.read_bytes())
        file.write(checkout)
        file.write(described)
        file.flush()
        return boot.boot(guest.kernel.arch, guest.image, Path(file.name), LIMIT, show)


COLUMNS = {
    "kernel": 18,
    "machine": 9,
    "step": 11,
    "tier": 6,
    **dict.fromkeys(steps.COUNTED, 11),
    "again": 7,
    "tests": 16,
    "seconds": 8,
}


def table_row(**cells: object) -> str:
    return "".join(
        f"{cells.get(name, '')!s:<{width}}" for name, width in COLUMNS.items()
    ).rstrip()


def tiers_of(verdict: steps.Verdict) -> dict[int, dict[str, str]]:
    """The cells of each tier that a step has counted."""
    found: dict[int, dict[str, str]] = {}
    for rows in verdict.rows:
        cells = found.setdefault(rows.tier, {"tier": str(rows.tier)})
        cells[rows.what] = f"{rows.right}/{rows.expected}"
        cells["again"] = str(rows.again or "")
    return found


def report(guest: Guest, result: boot.Boot, wanted: int) -> bool:
    """Prints the table's rows; whether all was well."""
    which = {"kernel": guest.release, "machine": MACHINES[guest.kernel.arch]}
    for verdict in result.verdicts:
        tests = f"{verdict.passed} passed"
        if verdict.failed:
            tests = f"{verdict.failed} FAILED, {verdict.passed}"
        told = {
            "step": verdict.step,
            "tests": tests,
            "seconds": verdict.seconds,
        }
        # What is of the whole step stands in its first row.
        for cells in tiers_of(verdict).values() or [{}]:
            print(table_row(**which | told | cells))
            told = {"step": verdict.step}
    ended = result.status == 0 and len(result.verdicts) == wanted
    print(
        table_row(
            **which,
            step="all",
            tests="" if ended else "DID NOT END",
            seconds=f"{result.seconds:.1f}",
        ),
        flush=True,
    )
    return ended and all(verdict.good for verdict in result.verdicts)


def print_failures(guest: Guest, result: boot.Boot) -> None:
    good = {
        section.title
        for section, verdict in zip(result.sections[1:], result.verdicts, strict=False)
        if verdict.good
    }
    for section in result.sections:
        if section.title not in good and section.lines:
            print(f"\n---- {guest.release} {guest.kernel.arch}: {section.title}")
            print("\n".join(section.lines[-TAIL:]), flush=True)


def run_all(
    prepared: Iterable[Guest | str], checkout: bytes, chosen: Sequence[steps.Step]
) -> tuple[int, bool]:
    """How many guests there were, and whether all was well in them."""
    bad = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        pending = {}
        # The first run while the next are still prepared.
        for guest in prepared:
            if isinstance(guest, str):
                print(f"vmtest: {guest}", file=sys.stderr)
                continue
            job: steps.Job = {"steps": chosen, "tiers": guest.kernel.tiers}
            pending[pool.submit(run_guest, guest, checkout, job)] = guest
        print(table_row(**{name: name for name in COLUMNS}), flush=True)
        for running in as_completed(pending):
            guest, result = pending[running], running.result()
            if not report(guest, result, len(chosen)):
                bad.append((guest, result))
    for guest, result in bad:
        print_failures(guest, result)
    return len(pending), not bad


def execute(prepared: Iterable[Guest | str], checkout: bytes, command: str) -> int:
    worst = 0
    for guest in prepared:
        if isinstance(guest, str):
            print(f"vmtest: {guest}", file=sys.stderr)
            worst = max(worst, 1)
            continue
        print(f"==== {guest.release} {guest.kernel.arch}", file=sys.stderr, flush=True)
        result = run_guest(
            guest, checkout, {"exec": command}, lambda line: print(line, flush=True)
        )
        if result.status is None:
            print_failures(guest, result)
        worst = max(worst, 1 if result.status is None else result.status)
    return worst


def enough(had: int, wanted: int) -> bool:
    """The archive may lack a kernel at the moment, but not most of them."""
    return had >= min(kernels.ENOUGH, wanted)


def main() -> int:
    parser = argparse.ArgumentParser(prog="vmtest", description=__doc__)
    parser.add_argument("--kernel", metavar="VERSION", help="as declared: 5.10, 7")
    parser.add_argument("--arch", choices=sorted(MACHINES))
    parser.add_argument("--ci", action="store_true", help="only those for .ci/run")
    parser.add_argument("--step", choices=[step.name for step in steps.STEPS])
    parser.add_argument(
        "--exec", metavar="COMMAND", help="run this in the guest instead of the tests"
    )
    parser.add_argument(
        "--source",
        type=Path,
        default=initramfs.ROOT,
        metavar="FOLDER",
        help="test another checkout",
    )
    options = parser.parse_args()
    wanted = kernels.chosen(options.kernel, options.arch, ci=options.ci)
    if not wanted:
        parser.error("no such kernel is declared in vmtest/kernels.py")
    for arch in {kernel.arch for kernel in wanted}:
        if not shutil.which(boot.MACHINES[arch].qemu):
            parser.error(f"{boot.MACHINES[arch].qemu} not found: run scripts/vmtest")
    began = time.monotonic()
    cache = cache_folder()
    checkout = cpio.archive(initramfs.checkout(options.source))
    try:
        prepared = prepare(cache, wanted)
        if options.exec is not None:
            return execute([*prepared], checkout, options.exec)
        chosen = steps.chosen(options.step, ci=options.ci)
        ran, good = run_all(prepared, checkout, chosen)
    except PackageError as error:
        print(f"vmtest: {error}", file=sys.stderr)
        return 1
    print(f"{ran} kernels in {time.monotonic() - began:.0f} s")
    if not enough(ran, len(wanted)):
        print("vmtest: too few kernels were run", file=sys.stderr)
        return 1
    return 0 if good else 1
