# Runs a Postgres cluster for as long as standard input stays open, so that it
# ends with the test process, however that ends. Arguments: the folder of the
# server's programs, the port.
set -eu
bin=$1
port=$2
umask 077
name=${TMPDIR:-/tmp}/nightporter-test-pg
cd /

# A cluster whose keeper was also killed no longer holds a lock.
for old in "$name".*; do
    [ -e "$old/lock" ] || continue
    (
        flock -n 9 || exit 0
        "$bin/pg_ctl" -D "$old/data" -m immediate stop 9>&- || true
        rm -rf "$old"
    ) 9>>"$old/lock" >/dev/null 2>&1 || true
done

dir=$(mktemp -d "$name.XXXXXX")
exec 9>"$dir/locked"
flock 9
mv "$dir/locked" "$dir/lock"

# A server that is still starting may write files.
finish() {
    for attempt in 1 2 3 4 5 6 7 8 9 10; do
        "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1 9>&- || true
        rm -rf "$dir" 2>/dev/null && return
        sleep 0.3
    done
}
trap finish EXIT
trap '' INT TERM HUP

"$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C --no-sync \
    >"$dir/log" 2>&1 9>&- || { cat "$dir/log" >&2; exit 1; }
cat >>"$dir/data/postgresql.conf" <<CONF
port = $port
listen_addresses = '127.0.0.1'
unix_socket_directories = '$dir'
max_connections = 500
shared_buffers = 64MB
fsync = off
full_page_writes = off
shared_preload_libraries = 'pg_stat_statements'
pg_stat_statements.max = 10000
log_min_messages = warning
CONF
"$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w start >/dev/null 2>&1 9>&- \
    || { cat "$dir/log" >&2; exit 1; }
echo "$dir"
exec 1>&-
cat >/dev/null
