"""The files of recordings: one, or one after the other."""

from __future__ import annotations

import os
import re
import stat

from tcplife.errors import OutputError, UsageError

# Of a file's number in a series: they sort by name as they do by time.
DIGITS = 6


class One:
    """A single file, which is opened at once; `-` is standard output.

    force: it may replace a file that is there, once there is something to record.
    """

    def __init__(self, path: str, *, force: bool = False) -> None:
        self._unused: tuple[int, str] | None
        if path == "-":
            if os.isatty(1):
                raise UsageError(
                    "--record -: a recording is no text for a terminal; give a file,"
                    " or | ssh, | gzip"
                )
            self._unused = os.dup(1), ""
            return
        if os.path.isdir(path):
            raise UsageError(f"--record {path}: it is a directory; give a file in it")
        if os.path.isfile(path) and not force:
            raise UsageError(
                f"--record {path}: it exists; remove it, give another name, or add"
                " --force to replace it"
            )
        self._unused = _create(path), path

    def next(self) -> tuple[int, str]:
        """Once: its descriptor, and its name, which standard output has not."""
        if self._unused is None:
            raise ValueError("there is one file only")
        given, self._unused = self._unused, None
        return given

    def discard(self) -> None:
        """Leaves nothing new behind, if nothing was recorded."""
        _discard(self._unused)


class Series:
    """FILE.000001 and so on, behind those that are there; `keep`: not more than that.

    The first one is opened at once.
    """

    def __init__(self, path: str, keep: int | None) -> None:
        if path == "-":
            raise UsageError("--rotate takes files: give --record a name, not -")
        self._path = path
        self._keep = keep
        self._unused: tuple[int, str] | None = self._open()

    def next(self) -> tuple[int, str]:
        """Raises OutputError."""
        (fd, name), self._unused = self._unused or self._open(), None
        if self._keep is not None:
            for old in self._numbered()[: -self._keep]:
                try:
                    os.unlink(old)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise OutputError(
                        f"cannot remove the old recording {old}: {error.strerror}"
                    ) from None
        return fd, name

    def discard(self) -> None:
        """Leaves nothing new behind, if nothing was recorded."""
        _discard(self._unused)

    def _open(self) -> tuple[int, str]:
        there = self._numbered()
        number = int(there[-1][-DIGITS:]) + 1 if there else 1
        name = f"{self._path}.{number:0{DIGITS}}"
        return _create(name), name

    def _numbered(self) -> list[str]:
        folder, name = os.path.split(self._path)
        pattern = re.compile(re.escape(name) + rf"\.[0-9]{{{DIGITS}}}")
        try:
            entries = os.listdir(folder or ".")
        except OSError as error:
            raise _cannot_write(self._path, error) from None
        found = filter(pattern.fullmatch, entries)
        return [os.path.join(folder, entry) for entry in sorted(found)]


def _create(path: str) -> int:
    """What is there already stays until there is a header to write."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o666)
    except OSError as error:
        raise _cannot_write(path, error) from None


def _discard(unused: tuple[int, str] | None) -> None:
    if unused is None:
        return
    fd, name = unused
    found = os.fstat(fd)
    os.close(fd)
    if name and stat.S_ISREG(found.st_mode) and not found.st_size:
        os.unlink(name)


def _cannot_write(path: str, error: OSError) -> OutputError:
    return OutputError(f"cannot write the recording {path}: {error.strerror}")
