"""From a source to its sinks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tcplife.errors import OutputError
from tcplife.pipeline.loss import LossReport
from tcplife.records.batch import Batch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcplife.records.batch import Sink


def pump(
    say: Callable[[str], None],
    batches: Iterable[Batch],
    sinks: Sequence[Sink],
    count: int | None,
    empty: bool = False,
) -> None:
    """Takes batches to the sinks until they end, or `count` rows are written.

    The first sink is what the user asked for: its OutputError ends it. Another's is
    reported, and the rest goes on without that sink. Each sink is closed, whatever
    the others do. empty: batches without records, too.
    """
    losses = LossReport(say)
    running = list(sinks)
    try:
        for batch in batches:
            if count is not None:
                batch.keep(count)
                count -= len(batch)
            if batch.data or empty:
                for sink in tuple(running):
                    try:
                        sink.write(batch)
                    except OutputError as error:
                        if sink is sinks[0]:
                            raise
                        running.remove(sink)
                        say(f"{error}; going on without it")
            losses.see(batch.loss)
            if count == 0:
                break
    finally:
        losses.finish()
        _close(sinks)


def _close(sinks: Sequence[Sink]) -> None:
    """Closes each, whatever the others do."""
    if sinks:
        try:
            sinks[0].close()
        finally:
            _close(sinks[1:])
