#!/bin/busybox sh
# Finds the disk, puts onto it what is tried, and hands over to its systemd.
export PATH=/bin
busybox mount -t devtmpfs devtmpfs /dev
busybox mount -t proc proc /proc
for module in /modules/*; do busybox insmod "$module"; done
busybox mount -t ext4 /dev/vda /disk || exec busybox poweroff -f
busybox cp -af /onto/. /disk/
busybox umount /proc
busybox mount -o move /dev /disk/dev
exec busybox switch_root /disk /lib/systemd/systemd
