"""The paths of cgroups by their IDs, also of those that are gone."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

from tcplife.columns.cgroup_paths import below, mount_point
from tcplife.kernel.libbpf import Library
from tcplife.kernel.program import LoadError, Program
from tcplife.kernel.ring import open_ring
from tcplife.kernel.shared import initial_config
from tcplife.records import abi
from tcplife.records.wire import Wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcplife.kernel.ring import Ring

CGROUP = Wire("cgroups", abi.CGROUP_EVENT)
# How many paths are kept.
LIMIT = 65536
_UNPACKER = CGROUP.unpacker(CGROUP.fields)


class Cgroups:
    """Those there are when tracing begins, and those that are made meanwhile."""

    def __init__(
        self,
        library: Library,
        sessions: Program,
        config: Mapping[str, int],
        wanted: str,
    ) -> None:
        """wanted: the folder whose IDs go to the filter's map; empty: none."""
        self._paths: dict[int, str] = {}
        self._ring: Ring | None = None
        self._program: Program | None = None
        root = mount_point()
        if root is None:
            return
        # First this, so that none is missed between the two.
        try:
            self._watch(library, sessions, config)
        except LoadError:
            # Those that come and go within the trace will have no path.
            self.close()
        for number, path in below(root):
            self._paths[number] = path.removeprefix(root.rstrip("/")) or "/"
        if wanted:
            wanted_map = sessions.map_fd("cgroups")
            one = ctypes.c_uint8(1)
            for number, _ in below(wanted):
                key = ctypes.c_uint64(number)
                library.bpf_map_update_elem(
                    wanted_map, ctypes.byref(key), ctypes.byref(one), 0
                )

    def _watch(
        self, library: Library, sessions: Program, config: Mapping[str, int]
    ) -> None:
        self._program = program = Program(library, "cgroups")
        initial_config(program).update(config)
        program.share_map("cgroups", sessions)
        program.load()
        program.attach()
        self._ring = open_ring(
            library, program.map_fd("events"), program.map_size("events"), CGROUP.stride
        )

    def path(self, number: int) -> str | None:
        """The path below the root of the cgroup2 hierarchy."""
        found = self._paths.get(number)
        if found is None and self._ring:
            self.update()
            found = self._paths.get(number)
        return found

    def update(self) -> None:
        """Takes over what was made since the last time."""
        while self._ring and (data := self._ring.read()):
            for number, raw in _UNPACKER.iter_unpack(data):
                self._paths[number] = os.fsdecode(raw.split(b"\0", 1)[0])
        if len(self._paths) > LIMIT:  # the oldest go, as dict keeps the order
            for number in list(self._paths)[: LIMIT // 2]:
                del self._paths[number]

    def close(self) -> None:
        if self._ring:
            self._ring.close()
            self._ring = None
        if self._program:
            self._program.close()
            self._program = None
