"""Where batches of records go. A sink has write(batch) and close()."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from tcplife.events import Batch

    class Sink(Protocol):
        def write(self, batch: Batch) -> None:
            """Takes a batch of one record or more.

            Raises OutputError if they cannot be kept.
            """

        def close(self) -> None:
            """Called once, after the last batch."""
