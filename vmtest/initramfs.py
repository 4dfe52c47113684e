"""The guest's root: three archives one after another, from the lasting to the fresh.

The user space of the host's own Debian release, in the guest's architecture; the
kernel's modules; this checkout. The first two are kept in the cache.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import lzma
import py_compile
import re
import stat
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from vmtest import cpio, elf
from vmtest.cpio import Tree
from vmtest.packages import PackageError, contents, merged

# With all that they depend on; of that only what the programs need is taken.
PACKAGES = (
    *("python3", "libbpf1", "iproute2", "nftables", "util-linux"),
    # Its own shell would not do: to that, `ip` is busybox's, whatever the path.
    *("busybox-static", "dash"),
)
PROGRAMS = (
    *("python3", "ip", "ss", "tc", "nft", "setpriv", "unshare", "nsenter"),
    *("busybox", "dash"),
)
# The second is loaded by the C library, by name, when a thread ends.
LIBRARIES = ("libbpf.so.1", "libgcc_s.so.1")
# Of Python's own library: what no test needs, or needs libraries by the megabyte.
PYTHON = re.compile(r"usr/lib/python3\.\d+/")
WITHOUT = re.compile(
    r"/(test|tests|idlelib|tkinter|lib2to3|ensurepip|pydoc_data|config-[^/]*)/"
    r"|/lib-dynload/(_ssl|_hashlib|_sqlite3|_curses|_curses_panel|_dbm|readline|nis)\."
)
# Which the kernel has as modules; in `modules` as files, in an order that works.
MODULES = ("veth", "nf_tables", "tcp_diag", "dummy", "sch_netem")

TRIPLETS = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
ROOT = Path(__file__).parents[1]


# ---- user space -------------------------------------------------------------


def user_space(packages: Iterable[Path], arch: str) -> Tree:
    everything: Tree = {}
    for package in packages:
        everything.update(contents(package))
    tree: Tree = {
        name: cpio.link(f"usr/{name}") for name in ("bin", "sbin", "lib", "lib64")
    }
    finder = _Finder(everything, tree, arch)
    for program in PROGRAMS:
        finder.take_first(f"usr/{folder}/{program}" for folder in ("bin", "sbin"))
    for library in LIBRARIES:
        finder.take_library(library)
    for path, node in everything.items():
        # Debian's own files among it link to /etc, whose scripts make that.
        if PYTHON.match(path) and not WITHOUT.search(path) and stat.S_ISREG(node.mode):
            finder.take(path)
    for path, data in test_runner().items():
        tree[f"usr/lib/python3/dist-packages/{path}"] = cpio.file(data)
    tree["usr/bin/sh"] = cpio.link("dash")
    tree["usr/bin/env"] = cpio.link("busybox")
    tree["etc/passwd"] = cpio.file(
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
    )
    tree["etc/group"] = cpio.file(b"root:x:0:\nnogroup:x:65534:\n")
    tree["etc/hosts"] = cpio.file(b"127.0.0.1 localhost guest\n::1 localhost\n")
    tree["init"] = cpio.file((ROOT / "vmtest/init.sh").read_bytes(), 0o755)
    return tree | compiled(tree)


class _Finder:
    """Takes files out of all that was unpacked, with the libraries that they need."""

    def __init__(self, everything: Tree, tree: Tree, arch: str) -> None:
        self._everything = everything
        self._tree = tree
        self._folders = (f"usr/lib/{TRIPLETS[arch]}", "usr/lib")

    def take_first(self, paths: Iterable[str]) -> None:
        tried = []
        for path in paths:
            if path in self._everything:
                self.take(path)
                return
            tried.append(path)
        raise PackageError(f"no package has {' or '.join(tried)}")

    def take_library(self, name: str) -> None:
        self.take_first(f"{folder}/{name}" for folder in self._folders)

    def take(self, path: str) -> None:
        if path in self._tree:
            return
        node = self._tree[path] = self._everything[path]
        if stat.S_ISLNK(node.mode):
            self.take(_pointed_to(path, node.data.decode()))
        elif elf.is_elf(node.data):
            for name in elf.needed(node.data):
                self.take_library(name)
            if interpreter := elf.interpreter(node.data):
                self.take(merged(interpreter))


def _pointed_to(path: str, target: str) -> str:
    """A link's target as a path of the tree."""
    parts: list[str] = []
    for part in (PurePosixPath("/") / PurePosixPath(path).parent / target).parts[1:]:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return merged("/".join(parts))


def test_runner() -> dict[str, bytes]:
    """pytest and what it needs, as installed for the Python that runs this."""
    files: dict[str, bytes] = {}
    wanted, seen = ["pytest"], set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            if name == "pytest":
                raise PackageError(
                    "pytest is not installed: see vmtest/README.md"
                ) from None
            continue  # for other versions of Python
        for need in package.requires or ():
            if "extra ==" not in need and (match := re.match(r"[\w.-]+", need)):
                wanted.append(match[0])
        for path in package.files or ():
            # Entry points are in the metadata; programs are outside, at "..".
            if path.parts[0] != ".." and path.suffix != ".pyc":
                files[str(path)] = path.read_binary()
    return files


def compiled(tree: Mapping[str, cpio.Node]) -> Tree:
    """Byte code next to the sources: compiling them in the guest takes a minute.

    Made by this Python: if the guest's is another one, it finds none of it.
    """
    found: Tree = {}
    tag = importlib.util.cache_from_source("x.py").rpartition("x.")[2]
    with tempfile.TemporaryDirectory() as folder:
        for path, node in tree.items():
            if not path.endswith(".py"):
                continue
            source = Path(folder, "source.py")
            source.write_bytes(node.data)
            try:
                made = py_compile.compile(
                    str(source),
                    f"{folder}/source.pyc",
                    f"/{path}",
                    doraise=True,
                    invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
                )
            except py_compile.PyCompileError:
                continue  # a test of somebody's for the compiler
            assert made
            at = PurePosixPath(path)
            name = str(at.parent / "__pycache__" / f"{at.stem}.{tag}")
            found[name] = cpio.file(Path(made).read_bytes())
    return found


# ---- the kernel -------------------------------------------------------------


def kernel(packages: Iterable[Path]) -> tuple[bytes, Tree]:
    """The image that boots, and the modules."""
    image = None
    found: dict[str, cpio.Node] = {}
    built_in: set[str] = set()
    for package in packages:
        for path, node in contents(package):
            name = PurePosixPath(path).name
            if re.match(r"(boot/vmlinuz-|usr/lib/modules/[^/]+/vmlinuz$)", path):
                image = node.data
            elif match := re.match(r"(.*)\.ko(\.xz)?$", name):
                found[_module_name(match[1])] = node
            elif name == "modules.builtin":
                names = re.findall(r"([^/]+)\.ko$", node.data.decode(), re.MULTILINE)
                built_in.update(map(_module_name, names))
    if image is None:
        raise PackageError("the packages have no kernel")
    tree: Tree = {}
    order: list[str] = []

    def take(name: str) -> None:
        if name in built_in or f"{name}.ko" in order:
            return
        if name not in found:
            raise PackageError(f"the packages have no module {name}")
        data = found[name].data
        data = data if elf.is_elf(data) else lzma.decompress(data)
        for need in elf.module_info(data).get("depends", "").split(","):
            if need:
                take(_module_name(need))
        tree[f"modules/{name}.ko"] = cpio.file(data)
        order.append(f"{name}.ko")

    for name in MODULES:
        take(name)
    tree["modules/order"] = cpio.file("".join(f"{name}\n" for name in order).encode())
    return image, tree


def _module_name(name: str) -> str:
    return name.replace("-", "_")


# ---- this checkout ----------------------------------------------------------


def checkout(root: Path) -> Tree:
    """What the tests need of it; the steps are this program's, whatever it is."""
    tree: Tree = {}
    for folder, top in (("src", root), ("tests", root), ("vmtest", ROOT)):
        for path in sorted((top / folder).rglob("*")):
            if path.suffix in (".py", ".o", ".c", ".h") and path.is_file():
                name = f"checkout/{path.relative_to(top)}"
                tree[name] = cpio.file(path.read_bytes())
    project = root / "pyproject.toml"
    tree["checkout/pyproject.toml"] = cpio.file(project.read_bytes())
    return tree | compiled(tree)
