#!/bin/sh
# The process that stands for one container.
#
#   container.sh RECORD SCRATCH [SOURCE TARGET]... -- COMMAND [ARGUMENT]...
#
# RECORD.pid gets this process's id, start time and boot, before anything else: where it exists already, another
# agent has started this attempt, and this process ends. RECORD.exit gets the exit status. Each SOURCE is bind-mounted at TARGET,
# in the mount namespace that the caller has made; SCRATCH is an empty folder to mount things in. At the end the whole
# process group goes, so that nothing outlives its container.
set -eu

record=$1 scratch=$2
shift 2

set -C
echo "$$ $(cut -d ' ' -f 22 "/proc/$$/stat") $(cat /proc/sys/kernel/random/boot_id)" >"$record.pid"
set +C

finish() {
    echo "$1" >"$record.exit.part"
    mv "$record.exit.part" "$record.exit"
    kill -KILL 0
}
trap 'finish $?' EXIT
trap : TERM INT

layered=
# A missing mount point is made in an overlay, so that nothing is written to this machine's own folders.
make_mount_point() {
    parent=$(dirname "$2")
    while [ ! -d "$parent" ]; do parent=$(dirname "$parent"); done
    parent=$(readlink -f "$parent")
    if [ "$parent" = / ]; then
        echo "container.sh: $2 cannot be mounted: no folder of this machine holds it" >&2
        exit 128
    fi
    # One for each folder: the kernel lays no more than two upon each other.
    case ":$layered:" in *":$parent:"*) ;; *)
        layer=$(mktemp -d "$scratch/XXXXXX")
        mkdir "$layer/upper" "$layer/work"
        mount -t overlay overlay -o "lowerdir=$parent,upperdir=$layer/upper,workdir=$layer/work" "$parent"
        layered=$layered:$parent
    esac
    if [ -d "$1" ]; then mkdir -p "$2"; else mkdir -p "$(dirname "$2")" && : >"$2"; fi
}

# A checkout or a data folder in /tmp is needed below a Pod's own /tmp as well.
keep_in_sight() {
    for needed in "$PWD" "$(dirname "$(dirname "$record")")"; do
        case $needed in "$2"/*)
            mkdir -p "$1${needed#"$2"}"
            mount --rbind "$needed" "$1${needed#"$2"}"
        esac
    done
}

if [ "$1" != -- ]; then mount -t tmpfs -o mode=0700 tmpfs "$scratch"; fi
while [ "$1" != -- ]; do
    [ -e "$2" ] || make_mount_point "$1" "$2"
    keep_in_sight "$1" "$2"
    mount --rbind "$1" "$2"
    shift 2
done
shift

status=0
"$@" || status=$?
exit "$status"
