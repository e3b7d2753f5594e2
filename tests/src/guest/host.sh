#!/bin/sh
# The scenarios on this host's own kernel: host.sh ROOT CGROUP ARCHIVE BUSYBOX COMMAND-LINE, run by unshare(1) in mount,
# network and IPC namespaces of its own. Builds what init.sh builds in a guest, on a tmpfs that goes with the namespace.
# Not a PID namespace: the kernel programs and the daemon number processes as the host does.
set -e
root=$1 cgroup=$2 archive=$3 busybox=$4 cmdline=$5
echo $$ >"$cgroup/cgroup.procs"
mount -t tmpfs -o mode=755 tmpfs "$root"
cd "$root"
"$busybox" cpio -i -d -m <"$archive" 2>/dev/null
echo "$cmdline" >on-the-host
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys # the host's own settings
mount -t sysfs sysfs sys
mount --bind "$cgroup" sys/fs/cgroup # nothing above this is reachable, not even by mistake
mount -t bpf bpf sys/fs/bpf          # an instance of its own: its pins go with it
mount -t tracefs tracefs sys/kernel/tracing
mount -t securityfs securityfs sys/kernel/security 2>/dev/null || true
mount -t tmpfs -o mode=755 tmpfs dev
for node in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
    set -- $node
    mknod -m 666 "dev/$1" c "$2" "$3"
done
mkdir dev/pts dev/shm
ln -s /proc/self/fd dev/fd
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs run
mkdir old
pivot_root . old
exec /bin/busybox sh -c 'umount -l /old && rmdir /old && ip link set lo up &&
    export PATH=/bin:/usr/bin:/opt/bin HOME=/root && cd / && exec kernel-guest'
