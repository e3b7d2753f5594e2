#!/bin/busybox sh
# PID 1 of a test guest: mounts what systemd would, runs the scenarios, switches off.
# Results go to the second serial port, everything else to the console.
export PATH=/bin:/usr/bin:/opt/bin HOME=/root
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
ln -s /proc/self/fd /dev/fd
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /run
mount -t securityfs securityfs /sys/kernel/security
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tracefs tracefs /sys/kernel/tracing
ip link set lo up
exec 2>/dev/ttyS0 </dev/null
enter=
stty -F /dev/ttyS1 raw 2>/dev/null
[ ! -e /real.sh ] || . /real.sh
$enter /bin/kernel-guest >/dev/ttyS1
poweroff -f
