"""What a command says, and how it ends."""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Callable, Sequence

from tcplife.columns.text import printable
from tcplife.errors import (
    OutputClosed,
    OutputError,
    TcplifeError,
    UsageError,
    too_many_files,
)
from tcplife.fileio import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass

STDOUT = 1


STDERR = 2


def run(name: str, command: Callable[[Sequence[str]], None]) -> int:
    """Runs a command's body; the one place where errors become messages.

    The result is the exit status: 0, 1 for a host or an output that says no, 2
    for bad usage.
    """
    # Nothing here makes reference cycles, and looking for them takes a tenth of
    # the time at high rates.
    gc.disable()
    try:
        command(sys.argv[1:])
    except OutputClosed:
        # The interpreter would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
    except TcplifeError as error:
        say(name, str(error))
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:  # before tracing began
        return 130
    except OSError as error:
        if error.errno != errno.EMFILE:
            return _internal_error(name, error)
        say(name, too_many_files())
        return 1
    except Exception as error:
        return _internal_error(name, error)
    return 0


def _internal_error(name: str, error: Exception) -> int:
    if os.environ.get("TCPLIFE_DEBUG"):
        raise error
    say(
        name,
        f"internal error, please report it: {type(error).__name__}: {error}"
        " (TCPLIFE_DEBUG=1 in the environment shows where)",
    )
    return 1


def say(name: str, message: str) -> None:
    """One line on standard error, whatever the message quotes."""
    try:
        write_all(STDERR, (printable(f"{name}: {message}") + "\n").encode())
    except OutputError:
        return  # nobody is there to be told


def print_text(text: str) -> None:
    write_all(STDOUT, text.encode())
