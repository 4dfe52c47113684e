"""Writing to a file descriptor, whole and at once."""

from __future__ import annotations

import os
import select

from tcplife.errors import OutputClosed, OutputError


def write_all(fd: int, data: bytes) -> None:
    """Writes all of `data`, waiting where a pipe or terminal is full.

    Raises OutputClosed if its reader has gone, OutputError for anything else.
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            # Somebody else made the open file non-blocking, as ssh(1) does.
            poller = select.poll()
            poller.register(fd, select.POLLOUT)
            poller.poll()
        except BrokenPipeError:
            raise OutputClosed("the reader of the output has left") from None
        except OSError as error:
            raise OutputError(
                f"cannot write the output: {os.strerror(error.errno or 0)}"
            ) from None
