"""From a source to its sinks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

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

    empty: batches without records, too.
    """
    losses = LossReport(say)
    try:
        for batch in batches:
            if count is not None:
                batch.keep(count)
                count -= len(batch)
            if batch.data or empty:
                for sink in sinks:
                    sink.write(batch)
            losses.see(batch.loss)
            if count == 0:
                break
    finally:
        losses.finish()
        for sink in sinks:
            sink.close()
