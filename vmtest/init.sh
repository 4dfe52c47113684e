#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# The guest's process 1: makes a Linux of the initramfs, runs guest.py, powers off.
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /root /usr/local/bin
/bin/busybox --install -s /usr/local/bin
# Programs of packages before busybox's of the same name.
export PATH=/usr/sbin:/usr/bin:/usr/local/bin HOME=/root TERM=dumb LC_ALL=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
for folder in /dev/shm /tmp /run; do
	mount -t tmpfs none $folder
done
mount -t tracefs none /sys/kernel/tracing
mount -t securityfs none /sys/kernel/security
mount -t cgroup2 none /sys/fs/cgroup
mount -t bpf none /sys/fs/bpf
# Nothing between the lines that the host reads but a panic.
echo 1 > /proc/sys/kernel/printk
while read -r module; do
	insmod "/modules/$module" || echo "vmtest: no $module"
done < /modules/order
ip link set lo up
# For the step that hides it.
cat /sys/kernel/btf/vmlinux > /run/vmlinux.btf
hostname guest
cd /checkout
export CI=true TCPLIFE_KERNEL_TESTS=1 PYTHONPATH=/checkout/src:/checkout:/checkout/tests
export PYTHONDONTWRITEBYTECODE=1 TCPLIFE_SLOWNESS=20
python3 -m vmtest.guest
sync
poweroff -f
