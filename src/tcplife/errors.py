"""What can go wrong, as a user sees it: what, why, and what to do.

TcplifeError
├── UsageError        a value given to an option or argument is bad
├── UnavailableError  this host does not let us trace
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


class OutputError(TcplifeError):
    """The output cannot take the rows, for instance on a full disk."""


class OutputClosed(OutputError):
    """The reader of our output has left; not a failure of ours."""
