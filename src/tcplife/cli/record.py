"""--record: what the kernel tells, kept in a file."""

from __future__ import annotations

import argparse
import sys

from tcplife.cli import host
from tcplife.recording import files
from tcplife.recording.writer import Writer, header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from tcplife.records.batch import Sink
    from tcplife.records.wire import Wire


def record(
    name: str,
    wire: Wire,
    options: argparse.Namespace,
    *,
    scope: str = "new",
    whole_life: bool = False,
) -> None:
    """Traces until it is told to stop, and records."""
    limits = dict(options.rotate)
    # Opened before anything is given up that this may take.
    target = (
        files.Series(options.record, options.keep)
        if options.rotate
        else files.One(options.record, force=options.force)
    )
    told = header(wire, name, sys.argv[1:], scope)

    def open_sinks() -> Sequence[Sink]:
        return [
            Writer(
                wire,
                told,
                target.next,
                max_bytes=limits.get("bytes"),
                max_seconds=limits.get("seconds"),
            )
        ]

    try:
        host.trace(
            name,
            wire,
            options,
            open_sinks,
            scope=scope,
            whole_life=whole_life,
            paths=True,
            record=True,
            # To make files in a folder that is another user's, as under sudo.
            needs=("CAP_DAC_OVERRIDE",) if options.rotate else (),
        )
    finally:
        target.discard()
