"""What of vmtest/ needs no guest: which packages, what goes into a guest, verdicts."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmtest import boot, cpio, elf, initramfs, kernels, packages, run, steps
from vmtest.kernels import Kernel
from vmtest.packages import PackageError

ROOT = Path(__file__).parents[2]

# ---- sources ------------------------------------------------------------------

ONE_LINE = """
# deb http://commented.example/debian bookworm main
deb http://mirror.example/debian bookworm main contrib # a comment
deb-src http://mirror.example/debian bookworm main
deb [arch=amd64 signed-by=/keys/debian-archive.gpg] http://sec.example/ \
bookworm-security main
deb [trusted=yes] http://others.example/ bookworm stable
"""

DEB822 = """\
Types: deb deb-src
# A comment.
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Architectures: amd64
Signed-By: /keys/debian-archive.gpg

Types: deb
URIs: http://sec.example/
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 key

Enabled: no
Types: deb
URIs: http://disabled.example/
Suites: bookworm
Components: main
"""


def test_one_line_sources() -> None:
    first, security, others = packages.parse_one_line(ONE_LINE)
    assert first.suites == ("bookworm",)
    assert first.components == ("main", "contrib")
    assert first.fields == (("URIs", "http://mirror.example/debian"),)
    assert security.fields == (
        ("URIs", "http://sec.example/"),
        ("signed-by", "/keys/debian-archive.gpg"),
    )
    assert others.components == ("stable",)


def test_deb822_sources() -> None:
    main, security = packages.parse_deb822(DEB822)
    assert main.suites == ("bookworm", "bookworm-updates")
    assert main.fields == (
        ("URIs", "http://mirror.example/debian"),
        ("Signed-By", "/keys/debian-archive.gpg"),
    )
    assert dict(security.fields)["Signed-By"].endswith("\n .\n key")


@pytest.mark.parametrize(
    "sources",
    [packages.parse_one_line(ONE_LINE), packages.parse_deb822(DEB822)],
    ids=["one-line", "deb822"],
)
def test_another_suite_is_where_the_hosts_is(sources: list[packages.Source]) -> None:
    text = packages.derive(sources, "bookworm", ["sid", "bullseye-security"])
    sid, security = packages.parse_deb822(text)
    assert (sid.suites, sid.components) == (("sid",), ("main",))
    assert ("URIs", "http://mirror.example/debian") in sid.fields
    assert security.suites == ("bullseye-security",)
    assert ("URIs", "http://sec.example/") in security.fields
    assert "architectures" not in text.lower()


def test_others_with_a_suite_of_that_name_are_not_taken() -> None:
    others = "deb http://others.example/ bookworm main\n"
    sources = packages.parse_one_line(others) + packages.parse_deb822(DEB822)
    text = packages.derive(sources, "bookworm", ["sid"])
    assert "others.example" not in text


def test_no_debian_is_told() -> None:
    with pytest.raises(PackageError, match="needs a Debian host"):
        packages.derive([], "noble", ["sid"])
    with pytest.raises(PackageError, match="needs a Debian host"):
        packages.host_codename("ID=arch\n")
    assert packages.host_codename("A=b\nVERSION_CODENAME=trixie\n") == "trixie"


def test_host_sources_are_of_both_formats(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.example/ one main\n")
    (tmp_path / "sources.list.d/b.list").write_text("deb http://b.example/ two main\n")
    (tmp_path / "sources.list.d/c.sources").write_text(DEB822)
    (tmp_path / "sources.list.d/d.list.save").write_text("deb http://d.example/ x y\n")
    suites = [source.suites[0] for source in packages.host_sources(tmp_path)]
    assert suites == ["one", "two", "bookworm", "bookworm-security"]


def test_planned_files() -> None:
    simulation = (
        "Reading package lists...\n"
        "Inst libc6 (2.36-9+deb12u14 Debian:12/oldstable [arm64])\n"
        "Inst zlib1g (1:1.2.13.dfsg-1 Debian:12/oldstable [arm64]) [libc6:arm64 ]\n"
        "Inst tzdata (2026a-0 Debian:12/oldstable, Security:12 [all])\n"
        "Conf libc6 (2.36-9+deb12u14 Debian:12/oldstable [arm64])\n"
    )
    assert packages.planned_files(simulation) == [
        "libc6_2.36-9+deb12u14_arm64.deb",
        "tzdata_2026a-0_all.deb",
        "zlib1g_1%3a1.2.13.dfsg-1_arm64.deb",
    ]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("./bin/ip", "usr/bin/ip"),
        ("./lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x86_64-linux-gnu/libc.so.6"),
        ("./usr/lib/os-release", "usr/lib/os-release"),
        ("/lib64/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2"),
        ("./libexec/x", "libexec/x"),
        ("./boot/vmlinuz", "boot/vmlinuz"),
    ],
)
def test_usr_is_merged(path: str, found: str) -> None:
    assert packages.merged(path) == found


# ---- kernels --------------------------------------------------------------------


def test_newest_kernel() -> None:
    kernel = Kernel("6.1", "amd64", (1,), ci=True)
    names = [
        "linux-image-6.1-cloud-amd64",  # a name for whatever is the newest
        "linux-image-6.1.0-0.deb11.52-cloud-amd64",
        "linux-image-6.1.0-9-cloud-amd64",
        "linux-image-6.1.0-56-cloud-amd64",
        "linux-image-6.1.0-56-cloud-amd64-dbg",
        "linux-image-6.1.0-57-cloud-amd64-unsigned",
        "linux-image-6.1.0-58-amd64",
        "linux-image-6.1.0-59-cloud-arm64",
        "linux-image-6.12.117+deb12-cloud-amd64",
    ]
    assert list(kernels.releases(kernel, names)) == [
        "6.1.0-56",
        "6.1.0-9",
        "6.1.0-0.deb11.52",
    ]


def test_newest_of_all_is_in_several_packages() -> None:
    kernel = Kernel("7", "arm64", (1,), ci=True)
    names = [
        f"linux-{kind}-7.{release}-cloud-arm64"
        for release in ("2.13+deb14", "10.1+deb13", "9.4+deb13")
        for kind in ("binary", "image", "modules")
    ]
    names += ["linux-image-7.0.4+deb13-cloud-arm64", "linux-modules-7.99.1-cloud-arm64"]
    found = kernels.releases(kernel, names)
    assert list(found) == ["7.10.1+deb13", "7.9.4+deb13", "7.2.13+deb14", "7.0.4+deb13"]
    assert found["7.10.1+deb13"] == [
        "linux-binary-7.10.1+deb13-cloud-arm64",
        "linux-modules-7.10.1+deb13-cloud-arm64",
    ]
    assert found["7.0.4+deb13"] == ["linux-image-7.0.4+deb13-cloud-arm64"]


def test_ci_runs_old_and_new_kernels_on_both_machines() -> None:
    ci = {(kernel.version, kernel.arch) for kernel in kernels.KERNELS if kernel.ci}
    assert ci >= {("5.10", "amd64"), ("6.1", "amd64"), ("7", "amd64")}
    assert "arm64" in {arch for _, arch in ci}


def test_choice() -> None:
    assert kernels.chosen(None, None, ci=False) == [*kernels.KERNELS]
    assert {each.arch for each in kernels.chosen("6.1", None, ci=False)} == {
        "amd64",
        "arm64",
    }
    assert kernels.chosen("4.19", None, ci=False) == []
    assert all(kernel.ci for kernel in kernels.chosen(None, "arm64", ci=True))


class EmptyArchive:
    """In place of Apt."""

    def __init__(self, *_: object) -> None:
        pass

    def refresh(self) -> str:
        return "a suite is gone"

    def search(self, _: str) -> list[str]:
        return []


def test_a_missing_kernel_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run, "Apt", EmptyArchive)
    monkeypatch.setattr(run, "user_space", lambda *_: tmp_path / "user.cpio")
    (text,) = run.prepare(tmp_path, [Kernel("6.1", "amd64", (1,), ci=True)])
    assert text == (
        "Linux 6.1 for x86-64 is not to be had: the archive has none\na suite is gone"
    )


@pytest.mark.parametrize(
    ("had", "wanted", "good"),
    [(8, 8, True), (3, 8, True), (2, 8, False), (1, 1, True), (0, 1, False)],
)
def test_enough_kernels(had: int, wanted: int, good: bool) -> None:
    assert run.enough(had, wanted) is good


def test_readme_has_the_declared_kernels() -> None:
    for page in ("README.md", "vmtest/README.md"):
        assert kernels.table() in (ROOT / page).read_text()


def test_readme_has_each_step() -> None:
    text = (ROOT / "vmtest/README.md").read_text().partition("## What is run")[2]
    for step in steps.STEPS:
        assert step.name in text


# ---- what goes into a guest -------------------------------------------------------


def unpacked(data: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Names, modes and contents of a newc archive."""
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n :][:8], 16) for n in range(13)]
        size, length = fields[6], fields[11]
        name = data[at + 110 : at + 110 + length - 1].decode()
        start = at + 110 + length
        start += -start % 4
        if name == "TRAILER!!!":
            return
        yield name, fields[1], data[start : start + size]
        at = start + size
        at += -at % 4


def test_archive() -> None:
    tree = {
        "usr/bin/odd": cpio.file(b"12345", 0o755),
        "usr/bin/sh": cpio.link("dash"),
        "usr/share": cpio.folder(0o700),
        "init": cpio.file(b""),
    }
    data = cpio.archive(tree)
    assert list(unpacked(data)) == [
        ("init", 0o100644, b""),
        ("usr", 0o040755, b""),
        ("usr/bin", 0o040755, b""),
        ("usr/bin/odd", 0o100755, b"12345"),
        ("usr/bin/sh", 0o120777, b"dash"),
        ("usr/share", 0o040700, b""),
    ]
    # Another one may follow.
    assert len(data) % 4 == 0


def test_what_this_python_needs() -> None:
    data = Path(sys.executable).read_bytes()
    assert elf.is_elf(data)
    assert "libc.so.6" in elf.needed(data)
    assert (elf.interpreter(data) or "").startswith("/lib")


def module(info: bytes) -> bytes:
    """A kernel module, as far as .modinfo goes."""
    names = b"\0.modinfo\0.shstrtab\0"
    sections = (
        (0, 0, 0, 0),
        (1, 1, 64, len(info)),
        (10, 3, 64 + len(info), len(names)),
    )
    start = 64 + len(info) + len(names)
    header = b"\x7fELF\x02\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, start, 0, 64, 0, 0, 64, len(sections), 2
    )
    table = b"".join(
        struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, at, size, 0, 0, 1, 0)
        for name, kind, at, size in sections
    )
    return header + info + names + table


def test_module_info() -> None:
    data = module(b"license=GPL\0depends=nfnetlink,libcrc32c\0vermagic=6.1 SMP=y\0")
    assert elf.module_info(data) == {
        "license": "GPL",
        "depends": "nfnetlink,libcrc32c",
        "vermagic": "6.1 SMP=y",
    }


def test_modules_come_after_those_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    depends = {
        "nf_tables": "nfnetlink,libcrc32c",
        "nfnetlink": "",
        "tcp-diag": "inet_diag",
        "inet_diag": "",
        "veth": "",
        "dummy": "built_in",
        "unwanted": "",
    }
    files = {
        "boot/vmlinuz-1": cpio.file(b"kernel"),
        "usr/lib/modules/1/modules.builtin": cpio.file(
            b"kernel/lib/libcrc32c.ko\nkernel/sch-netem.ko\nkernel/x/built-in.ko\n"
        ),
    } | {
        f"usr/lib/modules/1/kernel/{name}.ko": cpio.file(
            module(f"depends={needs}\0".encode())
        )
        for name, needs in depends.items()
    }
    monkeypatch.setattr(initramfs, "contents", lambda _: iter(files.items()))
    image, tree = initramfs.kernel([Path("a.deb")])
    assert image == b"kernel"
    order = tree["modules/order"].data.decode().split()
    assert order == [
        "veth.ko",
        "nfnetlink.ko",
        "nf_tables.ko",
        "inet_diag.ko",
        "tcp_diag.ko",
        "dummy.ko",
    ]
    assert {f"modules/{name}" for name in order} == tree.keys() - {"modules/order"}
    del files["usr/lib/modules/1/kernel/veth.ko"]
    with pytest.raises(PackageError, match="no module veth"):
        initramfs.kernel([Path("a.deb")])


def test_checkout_has_what_the_tests_need() -> None:
    tree = initramfs.checkout(ROOT)
    for path in (
        "pyproject.toml",
        "src/tcplife/bpf/tcplife.bpf.o",
        "tests/kernel/test_sessions.py",
        "vmtest/guest.py",
    ):
        assert tree[f"checkout/{path}"].data == (ROOT / path).read_bytes()
    for step in steps.STEPS:
        assert f"checkout/{step.tests[-1]}" in tree
    assert any("vmtest/__pycache__/guest." in path for path in tree)


def test_pytest_goes_along() -> None:
    files = initramfs.test_runner()
    assert {"pytest/__init__.py", "pluggy/__init__.py"} <= files.keys()


# ---- what a guest tells -----------------------------------------------------------


def guest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> boot.Boot:
    """A program that isn't QEMU, but says what a guest would."""
    program = tmp_path / "qemu"
    program.write_text(f"#!/bin/sh\n{script}")
    program.chmod(0o755)
    machine = boot.Machine(str(program), (), "console")
    monkeypatch.setitem(boot.MACHINES, "amd64", machine)
    return boot.boot("amd64", Path("vmlinuz"), Path("initramfs"), 2.0)


GOOD = '{"verdict": ["tiers", 3, 0, [["sessions", 1, 354, 354, 0]], 1.5]}'


def test_verdicts_are_read_among_other_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result = guest(
        monkeypatch,
        tmp_path,
        "echo SeaBIOS\n"
        f'printf \'\\n{steps.MARK}{{"begin": "tiers"}}\\r\\n\'\n'
        "printf 'output\\r\\n\\r\\n'\n"
        f"echo '{steps.MARK}{GOOD}'\n"
        f"echo '{steps.MARK}{{\"status\": 0}}'\n"
        "printf 'Power down'\n",
    )
    (verdict,) = result.verdicts
    assert verdict.good
    assert verdict.rows == [steps.Rows("sessions", 1, 354, 354, 0)]
    assert result.status == 0
    assert result.sections[0].lines == ["SeaBIOS"]
    assert result.sections[1] == boot.Output("tiers", ["output", "Power down"])


def test_silence_is_no_success(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """QEMU's exit status says nothing: it is 0, too, when the kernel panics."""
    result = guest(monkeypatch, tmp_path, "echo 'Kernel panic'\nexit 0\n")
    assert (result.verdicts, result.status) == ([], None)


def test_a_guest_that_hangs_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result = guest(monkeypatch, tmp_path, f"echo '{steps.MARK}{GOOD}'\nexec sleep 60\n")
    assert result.seconds < 30
    assert result.status is None
    assert "ended after 2 s" in result.sections[-1].lines[-1]


@pytest.mark.parametrize(
    ("verdict", "good"),
    [
        (steps.Verdict("x", 1, 0, [], 1.0), True),
        (steps.Verdict("x", 0, 0, [], 1.0), False),
        (steps.Verdict("x", 1, 1, [], 1.0), False),
        (steps.Verdict("x", 1, 0, [steps.Rows("sessions", 1, 5, 5, 1)], 1.0), True),
        (steps.Verdict("x", 1, 0, [steps.Rows("sessions", 1, 4, 5, 0)], 1.0), False),
        (steps.Verdict("x", 1, 0, [steps.Rows("sessions", 1, 0, 0, 0)], 1.0), False),
    ],
)
def test_what_is_good(verdict: steps.Verdict, good: bool) -> None:
    assert verdict.good is good


def test_ci_runs_less() -> None:
    names = [step.name for step in steps.chosen(None, ci=True)]
    assert names == ["tiers", "check", "no BTF", "busy", "lockdown"]
    assert [step.name for step in steps.chosen("tcplife", ci=False)] == ["tcplife"]
    # There is no way back from a lockdown.
    settings = [step.setting for step in steps.STEPS]
    assert settings[-2:] == [steps.INTEGRITY, steps.CONFIDENTIALITY]
