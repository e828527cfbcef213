# Keeps the folder of a Docker engine for as long as standard input stays open,
# and then ends everything of that engine that still runs, so that nothing of it outlives
# the test process, however that ends. Argument: the folder for the engine's data.
set -u
dir=$(mktemp -d "${TMPDIR:-/tmp}/nightporter-engine.XXXXXX") # short: socket paths end at 107 bytes
data=$(mktemp -d "$1/engine.XXXXXX")
trap '' INT TERM HUP
printf '%s\n%s\n' "$dir" "$data"
exec 1>&-
cat >/dev/null

engine() { timeout 20 docker --host "unix://$dir/docker.sock" "$@"; }
if containers=$(engine ps --all --quiet); then
    [ -z "$containers" ] || engine rm --force $containers
    engine network prune --force
    # Its own handling of SIGTERM ends containerd and unmounts.
    pid=$(cat "$dir/docker.pid") && kill "$pid"
    for _ in $(seq 100); do
        [ -e "$dir/docker.pid" ] || break
        sleep 0.1
    done
fi >/dev/null 2>&1
# If the engine was killed, its shims and their containers still run.
for _ in 1 2 3; do
    for process in $(grep -lF "$dir/" /proc/[0-9]*/cmdline 2>/dev/null); do
        pid=${process#/proc/}
        pid=${pid%/cmdline}
        [ "$pid" != $$ ] || continue
        pkill -KILL -P "$pid"
        kill -KILL "$pid"
    done 2>/dev/null
    sleep 0.1
done
awk -v a="$dir/" -v b="$data/" 'index($2 "/", a) == 1 || index($2 "/", b) == 1 { print $2 }' /proc/mounts |
    sort -r | while read -r mount; do umount --lazy "$mount"; done
rm -rf "$dir" "$data"
