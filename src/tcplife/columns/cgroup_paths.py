"""What a cgroup's path says: where it is mounted, which container it is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

MOUNTS = "/proc/self/mountinfo"

# Patterns are compiled when they are first used: it takes its time.
#
# How container engines name a container's cgroup, with the ID that their own
# commands show: docker-ID.scope and docker/ID (Docker), cri-containerd-ID.scope
# (containerd), crio-ID.scope (CRI-O), libpod-ID.scope (Podman), and the bare ID
# below a pod with cgroupfs as the driver; cri-containerd:ID where only one of kubelet
# and containerd has systemd as its driver.
_ID = r"(?:^|[-/:])(?P<id>[0-9a-f]{64})(?:\.scope)?(?=/|$)"
# systemd-nspawn@NAME.service, and machine-NAME.scope for what machined registers.
_MACHINE = (
    r"/(?:systemd-nspawn@(?P<unit>[^/]+)\.service|machine-(?P<name>[^/]+)\.scope)"
)
# kubepods-burstable-podUID.slice, with _ for -, and kubepods/burstable/podUID; kind(1)
# puts more before it. Of a static pod the UID is a hash.
_POD = (
    r"/(?:[^/]*kubepods[^/]*-)?pod"
    r"([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?=[./:]|$)"
)
_ESCAPE = r"\\x([0-9a-f]{2})"  # systemd-escape(1)


def mount_point() -> str | None:
    """Where the cgroup2 file system is mounted."""
    with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields, _, kind = line.partition(" - ")
            if kind.startswith("cgroup2 "):
                # Documentation/filesystems/proc.rst, 3.5: the fifth field
                return fields.split()[4].replace("\\040", " ")
    return None


def below(folder: str) -> Iterator[tuple[int, str]]:
    """The IDs and paths of a cgroup and those below it.

    A cgroup's ID is its inode (since Linux 5.5; fs/kernfs/dir.c, kernfs_ino()).
    """
    try:
        yield os.stat(folder).st_ino, folder
        with os.scandir(folder) as entries:
            inner = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:  # it was removed meanwhile
        return
    for entry in inner:
        yield from below(entry.path)


def container(path: str | None) -> str | None:
    """The ID of a container, or the name of a machine, from its cgroup's path."""
    if not path:
        return None
    # The innermost counts: containers may run in containers.
    all_found = list(re.finditer(f"{_ID}|{_MACHINE}", path))
    if not all_found:
        return None
    found = all_found[-1]
    name = found["id"] or found["unit"] or found["name"]
    return re.sub(_ESCAPE, lambda escaped: chr(int(escaped[1], 16)), name)


def short(identity: str | None) -> str | None:
    """As `docker ps` shows it."""
    if identity and re.fullmatch("[0-9a-f]{64}", identity):
        return identity[:12]
    return identity


def pod(path: str | None) -> str | None:
    """The UID of a Kubernetes pod."""
    found = re.findall(_POD, path or "")
    return str(found[-1]).replace("_", "-") if found else None
