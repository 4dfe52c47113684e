"""What can go wrong, as a user sees it: what, why, and what to do.

TcplifeError
├── UsageError        a value given to an option or argument is bad
├── UnavailableError  this host does not let us trace
├── RecordingError    a recording cannot be read, or not all of it
└── OutputError       the rows cannot be written
    └── OutputClosed  nobody reads them any more
"""

from __future__ import annotations


class TcplifeError(Exception):
    """Any error of this package that a user can act upon. One line of text."""


class UsageError(TcplifeError):
    """A bad value; the message names the option, the value and the remedy."""


class UnavailableError(TcplifeError):
    """The host lacks something; the message says what it is and the remedy."""


def too_many_files() -> str:
    """What to do about EMFILE: this process has as many files open as it may."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        f"no more than {limit} files may be open at once, which is too few: raise it"
        " with `ulimit -n 1024` or, for a service, with LimitNOFILE=1024"
    )


class RecordingError(TcplifeError):
    """A recording is damaged, cut short, of a newer version, or none."""


class OutputError(TcplifeError):
    """The output cannot take the rows, for instance on a full disk."""


class OutputClosed(OutputError):
    """The reader of our output has left; not a failure of ours."""
