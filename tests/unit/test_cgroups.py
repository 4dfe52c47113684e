"""Which container, machine or pod a cgroup's path is of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tcplife.columns import cgroup_paths
from tcplife.columns.cgroup_paths import below, container, mount_point, pod, short

ID = "0123456789abcdef" * 4
OUTER = "fedcba9876543210" * 4
UID = "01234567-89ab-cdef-0123-456789abcdef"
OTHER_UID = "fedcba98-7654-3210-fedc-ba9876543210"
UID_ = UID.replace("-", "_")
# Of a pod that a file describes: kubelet hashes that (pkg/kubelet/config/common.go).
HASH = "0123456789abcdef" * 2
USER = "/user.slice/user-1000.slice/user@1000.service"

# path -> container and pod
PATHS: dict[str, tuple[str | None, str | None]] = {
    # Docker: its cgroup driver is cgroupfs, systemd, systemd and rootless
    f"/docker/{ID}": (ID, None),
    f"/system.slice/docker-{ID}.scope": (ID, None),
    f"{USER}/user.slice/docker-{ID}.scope": (ID, None),
    f"/my.slice/docker-{ID}.scope/init.scope": (ID, None),
    f"/docker/{ID}/system.slice/nginx.service": (ID, None),
    # containerd: nerdctl, and with either driver in a namespace of its own
    f"/system.slice/nerdctl-{ID}.scope": (ID, None),
    f"/default/{ID}": (ID, None),
    # Podman: rootful and rootless, in a pod, in a service, with cgroupfs
    f"/machine.slice/libpod-{ID}.scope": (ID, None),
    f"/machine.slice/libpod-{ID}.scope/container": (ID, None),
    f"{USER}/user.slice/libpod-{ID}.scope/container": (ID, None),
    f"/machine.slice/machine-libpod_pod_{OUTER}.slice/libpod-{ID}.scope": (ID, None),
    f"{USER}/user.slice/user-libpod_pod_{OUTER}.slice/libpod-{ID}.scope": (ID, None),
    f"/system.slice/web.service/libpod-payload-{ID}": (ID, None),
    f"/libpod_parent/libpod-{ID}": (ID, None),
    # systemd-nspawn, and what machined knows
    "/machine.slice/systemd-nspawn@web.service": ("web", None),
    "/machine.slice/systemd-nspawn@web.service/payload/system.slice/x.service": (
        "web",
        None,
    ),
    r"/machine.slice/systemd-nspawn@my\x2dweb.service/payload": ("my-web", None),
    r"/machine.slice/machine-my\x2dweb.scope": ("my-web", None),
    r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt": ("qemu-1-vm", None),
    # Kubernetes with systemd as the driver, in each class
    f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice/"
    f"cri-containerd-{ID}.scope": (ID, UID),
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/"
    f"crio-{ID}.scope": (ID, UID),
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/"
    f"crio-{ID}.scope/container": (ID, UID),
    f"/kubepods.slice/kubepods-pod{UID_}.slice/docker-{ID}.scope": (ID, UID),
    f"/kubepods.slice/kubepods-pod{UID_}.slice": (None, UID),
    # ... and with cgroupfs
    f"/kubepods/besteffort/pod{UID}/{ID}": (ID, UID),
    f"/kubepods/burstable/pod{UID}/{ID}": (ID, UID),
    f"/kubepods/pod{UID}/{ID}": (ID, UID),
    f"/kubepods/burstable/pod{UID}/crio-{ID}": (ID, UID),
    f"/kubepods/pod{UID}": (None, UID),
    # Containers in containers: the innermost
    f"/docker/{OUTER}/docker/{ID}": (ID, None),
    f"/system.slice/docker-{OUTER}.scope/system.slice/docker-{ID}.scope": (ID, None),
    f"/docker/{OUTER}/kubelet/kubepods/besteffort/pod{UID}/{ID}": (ID, UID),
    f"/kubepods/pod{OTHER_UID}/{OUTER}/kubepods/pod{UID}/{ID}": (ID, UID),
    f"/machine.slice/systemd-nspawn@node.service/payload/docker/{ID}": (ID, None),
    f"/kubepods/pod{UID}/{OUTER}/docker/{ID}": (ID, UID),
    # None
    "": (None, None),
    "/": (None, None),
    "/init.scope": (None, None),
    "/system.slice/docker.service": (None, None),
    "/system.slice/containerd.service": (None, None),
    "/system.slice/crio.service": (None, None),
    f"{USER}/app.slice/app-org.gnome.Terminal.slice": (None, None),
    "/machine.slice": (None, None),
    "/kubepods.slice/kubepods-burstable.slice": (None, None),
    f"/machine.slice/machine-libpod_pod_{OUTER}.slice": (None, None),
    f"/docker/{ID[:-1]}": (None, None),
    f"/docker/{ID}0": (None, None),
    f"/docker/{ID.upper()}": (None, None),
    f"/docker/x{ID}": (None, None),
    f"/system.slice/docker-{ID}.service": (None, None),
    f"/kubepods/pod{UID[:-1]}": (None, None),
    "/kubepods/podcast": (None, None),
    f"/user/tripod{UID}": (None, None),
    "/system.slice/systemd-machined.service": (None, None),
    # kind sets kubelet's cgroupRoot, and systemd puts that into each slice's name
    f"/docker/{OUTER}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable"
    f".slice/kubelet-kubepods-burstable-pod{UID_}.slice/cri-containerd-{ID}.scope": (
        ID,
        UID,
    ),
    # Static pods: kube-apiserver, etcd
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{HASH}.slice/"
    f"cri-containerd-{ID}.scope": (ID, HASH),
    f"/kubepods/burstable/pod{HASH}/{ID}": (ID, HASH),
    # kubelet's driver is systemd, containerd's is cgroupfs
    f"/system.slice/containerd.service/kubepods-burstable-pod{UID_}.slice:"
    f"cri-containerd:{ID}": (ID, UID),
    # A service, of the host
    "/system.slice/machine-exporter.service": (None, None),
    # The innermost is the machine
    f"/docker/{OUTER}/machine.slice/systemd-nspawn@web.service": ("web", None),
}


@pytest.mark.parametrize(("path", "expected"), PATHS.items())
def test_container_and_pod(path: str, expected: tuple[str | None, str | None]) -> None:
    assert (container(path), pod(path)) == expected


def test_no_path_is_of_none() -> None:
    assert (container(None), pod(None)) == (None, None)


@pytest.mark.parametrize(
    ("identity", "shown"),
    [
        (ID, ID[:12]),
        ("my-web", "my-web"),
        ("a-machine-with-a-long-name", "a-machine-with-a-long-name"),
        ("0123456789abcdef", "0123456789abcdef"),
        ("", ""),
        (None, None),
    ],
)
def test_short_is_of_ids_only(identity: str | None, shown: str | None) -> None:
    assert short(identity) == shown


MOUNTS = {
    # mountinfo -> where the cgroup2 file system is: hybrid, unified, neither
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n": (
        "/sys/fs/cgroup/unified"
    ),
    "30 23 0:26 / /sys/fs/cgroup rw shared:4 master:1 - cgroup2 cgroup2 rw\n": (
        "/sys/fs/cgroup"
    ),
    "30 23 0:26 / /mnt/two\\040words rw - cgroup2 none rw\n": "/mnt/two words",
    "31 23 0:28 / /cgroup2 rw - tmpfs cgroup2 rw\n": None,
    "": None,
}


@pytest.mark.parametrize(("mounts", "expected"), MOUNTS.items())
def test_mount_point(
    mounts: str, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mountinfo"
    file.write_text(mounts)
    monkeypatch.setattr(cgroup_paths, "MOUNTS", str(file))
    assert mount_point() == expected


def test_below_is_all_folders_by_their_inodes(tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/file").touch()
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to("a")
    expected = [tmp_path / name for name in ("", "a", "a/b", "a/b/c", "d")]
    assert sorted(below(str(tmp_path))) == sorted(
        (os.stat(path).st_ino, str(path)) for path in expected
    )
    assert list(below(str(tmp_path / "gone"))) == []
