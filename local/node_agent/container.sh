#!/bin/sh
# The process that stands for one container.
#
#   container.sh RECORD COMMAND [ARGUMENT]...
#
# RECORD.pid gets this process's id, start time and boot, before anything else: where it exists already, another
# agent has started this attempt, and this process ends. RECORD.exit gets the exit status. At the end the whole
# process group goes, so that nothing outlives its container.
set -eu

record=$1
shift

finish() {
    echo "$1" >"$record.exit.part"
    mv "$record.exit.part" "$record.exit"
    kill -KILL 0
}

trap 'exit 143' TERM INT
set -C
echo "$$ $(cut -d ' ' -f 22 "/proc/$$/stat") $(cat /proc/sys/kernel/random/boot_id)" >"$record.pid"
set +C
trap 'finish $?' EXIT

status=0
trap : TERM INT # the command gets it as well: all are one process group
"$@" || status=$?
exit "$status"
