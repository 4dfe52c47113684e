"""Debian's packages, by an apt with a state of its own: the host's stays as it is.

What may be fetched is derived from the host's own sources, by another suite's name:
so a mirror that the host goes through is gone through here, too.
"""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from vmtest import cpio

FRESH = 3600.0  # seconds for which an index is good enough


class PackageError(Exception):
    """Something can't be had; the text says what."""


# ---- sources ----------------------------------------------------------------


class Source(NamedTuple):
    """An archive: its suites on the host, and the fields that say how to reach it."""

    suites: tuple[str, ...]
    components: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]  # URIs, Signed-By and the like


# Fields of a deb822 stanza that name what is taken, not where it is.
_SELECTION = {"types", "suites", "components", "architectures", "enabled", "languages"}


def parse_one_line(text: str) -> list[Source]:
    """`deb [option=value ...] URI SUITE COMPONENT...`, as in sources.list."""
    found = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s*)?(\S+)\s+(\S+)([^#]*)", line)
        if not match:
            continue
        options, uri, suite, components = match.groups()
        fields = [("URIs", uri)]
        for option in (options or "").split():
            name, _, value = option.partition("=")
            if name in ("arch", "lang"):
                continue
            fields.append((name, value.replace(",", " ")))
        found.append(Source((suite,), tuple(components.split()), tuple(fields)))
    return found


def parse_deb822(text: str) -> list[Source]:
    """Stanzas of `Field: value`, as in *.sources."""
    found = []
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n(?:[ \t]*\n)+", "\n".join(lines).strip("\n")):
        fields: list[tuple[str, str]] = []
        for line in stanza.splitlines():
            if line[:1].isspace() and fields:
                name, value = fields.pop()
                fields.append((name, f"{value}\n{line}"))
            elif ":" in line:
                name, _, value = line.partition(":")
                fields.append((name, value.strip()))
        known = {name.lower(): value for name, value in fields}
        if "deb" not in known.get("types", "").split() or known.get("enabled") == "no":
            continue
        found.append(
            Source(
                tuple(known.get("suites", "").split()),
                tuple(known.get("components", "").split()),
                tuple(each for each in fields if each[0].lower() not in _SELECTION),
            )
        )
    return found


def host_sources(etc: Path = Path("/etc/apt")) -> list[Source]:
    found: list[Source] = []
    for path in [etc / "sources.list", *sorted(etc.glob("sources.list.d/*"))]:
        if path.suffix == ".list" and path.is_file():
            found += parse_one_line(path.read_text())
        elif path.suffix == ".sources":
            found += parse_deb822(path.read_text())
    return found


def derive(sources: Iterable[Source], codename: str, suites: Iterable[str]) -> str:
    """A *.sources file that gives these suites, by the host's way to its own.

    codename: the host's suite, which tells Debian's archive from any other.
    """
    own = {"main": {codename}, "security": {f"{codename}-security"}}
    stanzas = []
    for suite in suites:
        kind = "security" if suite.endswith("-security") else "main"
        candidates = [
            source
            for source in sources
            if own[kind] & set(source.suites) and "main" in source.components
        ]
        if not candidates:
            raise PackageError(
                f"/etc/apt has no source like {codename}'s for {suite}:"
                " this needs a Debian host"
            )
        # Others call their suites by Debian's names, too.
        best = max(candidates, key=lambda each: "debian-archive" in str(each.fields))
        fields = (
            ("Types", "deb"),
            *best.fields,
            ("Suites", suite),
            ("Components", "main"),
        )
        stanzas.append("".join(f"{name}: {value}\n" for name, value in fields))
    return "\n".join(stanzas)


def host_codename(text: str) -> str:
    """Of /etc/os-release."""
    match = re.search(r'^VERSION_CODENAME="?(\w+)"?$', text, re.MULTILINE)
    if not match:
        raise PackageError("/etc/os-release names no suite: this needs a Debian host")
    return match[1]


# ---- apt --------------------------------------------------------------------


class Apt:
    """Some suites' packages for an architecture, as on a host with none installed."""

    def __init__(self, folder: Path, arch: str, suites: Collection[str] = ()) -> None:
        """Without suites: the host's own."""
        self._folder = folder
        codename = host_codename(Path("/etc/os-release").read_text())
        own = (codename, f"{codename}-security")
        self._sources = derive(host_sources(), codename, suites or own)
        self._options = [
            word
            for option in (
                f"APT::Architecture={arch}",
                f"APT::Architectures={arch}",
                "APT::Sandbox::User=root",
                f"Dir::State={folder}",
                f"Dir::State::lists={folder}/lists",
                f"Dir::State::status={folder}/status",
                f"Dir::Cache={folder}/cache",
                "Dir::Etc::SourceList=/dev/null",
                f"Dir::Etc::SourceParts={folder}/sources",
                "Acquire::Languages=none",
            )
            for word in ("-o", option)
        ]

    def _run(self, tool: str, *arguments: str, cwd: Path | None = None) -> str:
        done = subprocess.run(
            [tool, *self._options, *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line[:2] == "E:"]
            text = "\n".join(lines or [done.stderr.strip()])
            raise PackageError(f"{tool} {' '.join(arguments)}: {text}")
        return done.stdout

    def refresh(self) -> str | None:
        """Fetches the indices unless fresh; returns what was wrong with some."""
        stamp, sources = self._folder / "fresh", self._folder / "sources/vmtest.sources"
        if (
            stamp.exists()
            and time.time() - stamp.stat().st_mtime < FRESH
            and sources.read_text() == self._sources
        ):
            return None
        for name in ("lists/partial", "cache/archives/partial", "sources"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        (self._folder / "status").touch()
        sources.write_text(self._sources)
        try:
            self._run("apt-get", "update", "-qq")
        except PackageError as error:
            # A suite may be gone; the kernels of the others are still to be had.
            return str(error)
        stamp.touch()
        return None

    def search(self, pattern: str) -> list[str]:
        """The names of packages that there are: pkgnames has some that aren't."""
        found = self._run("apt-cache", "search", "--names-only", pattern)
        return [line.split()[0] for line in found.splitlines()]

    def download(self, folder: Path, names: Iterable[str]) -> list[Path]:
        """These packages alone."""
        folder.mkdir(parents=True, exist_ok=True)
        self._run("apt-get", "download", "-qq", *names, cwd=folder)
        return sorted(folder.glob("*.deb"))

    def download_all(self, names: Iterable[str]) -> list[Path]:
        """These packages and all that they depend on."""
        install = ("install", "-y", "--no-install-recommends", *names)
        planned = self._run("apt-get", "-s", *install)
        self._run("apt-get", "-qq", "--download-only", *install)
        return [
            self._folder / "cache/archives" / name for name in planned_files(planned)
        ]


def planned_files(simulation: str) -> list[str]:
    """The file names of the packages that `apt-get --simulate install` names."""
    found = re.findall(r"^Inst (\S+) \((\S+) .*\[(\w+)\]\)", simulation, re.MULTILINE)
    return sorted(
        f"{name.partition(':')[0]}_{version.replace(':', '%3a')}_{arch}.deb"
        for name, version, arch in found
    )


# ---- contents ---------------------------------------------------------------

_MERGED = re.compile(r"(?:bin|sbin|lib|lib64)(?:/|$)")


def contents(package: Path) -> Iterator[tuple[str, cpio.Node]]:
    """A package's files by their paths, as on a host whose /lib is /usr/lib."""
    argv = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with (
        subprocess.Popen(argv, stdout=subprocess.PIPE) as unpacking,
        tarfile.open(fileobj=unpacking.stdout, mode="r|") as members,
    ):
        seen: dict[str, cpio.Node] = {}
        for member in members:
            path = merged(member.name)
            if member.issym():
                node = cpio.link(member.linkname)
            elif member.islnk():
                node = seen[merged(member.linkname)]
            elif member.isfile():
                contained = members.extractfile(member)
                assert contained
                node = cpio.file(contained.read(), member.mode)
            else:
                continue  # a folder
            seen[path] = node
            yield path, node
    if unpacking.returncode:
        raise PackageError(f"dpkg-deb can't unpack {package.name}")


def merged(path: str) -> str:
    path = path.removeprefix("./").strip("/")
    return f"usr/{path}" if _MERGED.match(path) else path
