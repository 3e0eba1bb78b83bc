#!/bin/sh
# The first process of a container: it shows the container its files and nothing else, and starts it.
#
#   isolate.sh ROOT FOLDER HOSTNAME [ro|rw SOURCE TARGET]... -- COMMAND [ARGUMENT]...
#
# It runs as root of the mount, process, IPC and host name namespaces that the caller has made for it; ROOT is an
# empty folder. COMMAND begins in FOLDER, and gives up the rights that are left. When this process ends, so does
# everything in the container.
set -eu

root=$1 folder=$2
hostname "$3"
shift 3
trap : TERM INT
umask 022 # whoever the container is has to find its way

mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs "$root"
while [ "$1" != -- ]; do
    if [ -d "$2" ]; then mkdir -p "$root$3"; else mkdir -p "$(dirname "$root$3")" && : >"$root$3"; fi
    mount --rbind "$2" "$root$3"
    if [ "$1" = ro ]; then mount -o remount,bind,ro "$root$3"; fi
    shift 3
done
shift

mkdir "$root/proc" "$root/outside"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
cd "$root"
PATH=$PATH:/usr/sbin:/sbin pivot_root . outside
umount --lazy /outside
rmdir /outside
mount -o remount,bind,ro /
cd "$folder"

status=0
"$@" || status=$?
exit "$status"
