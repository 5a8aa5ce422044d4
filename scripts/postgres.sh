#!/bin/sh
# Runs a PostgreSQL server for tests and for `xtask stack`: on a unix socket only, with fsync, as an
# unprivileged user. It ends with this script's standard input (so whatever ends whoever holds the
# other end) or by SIGTERM. A server that dies meanwhile, by kill -9 say, is started again.
#
#   postgres.sh                          everything in a temporary directory that is removed at the end
#   postgres.sh DIRECTORY PASSWORD_FILE  the data stays; both are made if they are not there
#
# Prints one line when it takes connections: ready SOCKET_DIRECTORY PASSWORD_FILE DATA_DIRECTORY
# User and database are both called mimimi.
set -eu

say() { echo "postgres.sh: $*" >&2; }
fail() {
    say "$*"
    exit 1
}

binaries=
for directory in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV) \
    $(dirname "$(command -v initdb 2>/dev/null || echo /nowhere/initdb)"); do
    if [ -x "$directory/initdb" ] && [ -x "$directory/postgres" ]; then
        binaries=$directory
        break
    fi
done
[ -n "$binaries" ] || fail "PostgreSQL is missing: \`make setup\` as root installs Debian's package;
  MIMIMI_WITHOUT_POSTGRES=1 leaves out the tests that need it"

# PostgreSQL refuses to run as root.
if [ "$(id -u)" = 0 ]; then
    server_user=postgres
    id "$server_user" >/dev/null 2>&1 || server_user=nobody
    server_group=$(id -g "$server_user")
    own() { chown "$server_user:$server_group" "$@"; }
    prefix="setpriv --reuid=$server_user --regid=$server_group --clear-groups"
else
    own() { :; }
    prefix=
fi

# Short and of our own: the path of a unix socket has at most 107 bytes.
sockets=$(mktemp -d /tmp/mimimi-postgres.XXXXXX)
own "$sockets"
server=
ending=no
temporary=no
sync=
finish() {
    if [ -n "$server" ] && kill -0 "$server" 2>/dev/null; then
        # What is thrown away needs no checkpoint.
        [ "$temporary" = yes ] && kill -QUIT "$server" 2>/dev/null
        kill -INT "$server" 2>/dev/null || :
        while kill -0 "$server" 2>/dev/null; do
            wait "$server" 2>/dev/null || :
        done
    fi
    [ -z "${watcher:-}" ] || kill "$watcher" 2>/dev/null || :
    rm -rf "$sockets"
}
trap finish EXIT
trap 'ending=yes; exit 0' TERM INT HUP

if [ $# = 0 ]; then
    temporary=yes
    # Of the first files only: the server itself syncs.
    sync=--no-sync
    mkdir "$sockets/data"
    own "$sockets/data"
    data=$sockets/data
    password=$sockets/password
else
    [ $# = 2 ] || fail "usage: postgres.sh [DIRECTORY PASSWORD_FILE]"
    mkdir -p "$1"
    own "$1"
    data=$(cd "$1" && pwd)
    password=$2
    # shellcheck disable=SC2086
    (cd / && $prefix test -w "$data") || fail "user $server_user cannot enter $data: choose a directory
  whose parents may be passed through by everybody (STACK_DIR, for a stack)"
fi
log=$data.log

if [ ! -e "$data/PG_VERSION" ]; then
    (umask 077 && od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$password")
    cp "$password" "$sockets/first-password"
    own "$sockets/first-password"
    # shellcheck disable=SC2086
    (cd / && $prefix "$binaries/initdb" --pgdata="$data" --username=mimimi --encoding=UTF8 --locale=C \
        --auth=scram-sha-256 --pwfile="$sockets/first-password" --no-instructions $sync) >"$log" 2>&1 || {
        cat "$log" >&2
        fail "initdb failed"
    }
    rm -f "$sockets/first-password"
fi

# Background jobs get /dev/null as their standard input.
exec 3<&0
(
    trap - EXIT
    cat <&3 >/dev/null
    kill -TERM $$ 2>/dev/null
) &
watcher=$!
exec 3<&-

start() {
    # The server's log must not quote statements: their parameters are what is stored.
    # shellcheck disable=SC2086
    $prefix "$binaries/postgres" -D "$data" -c listen_addresses= -c unix_socket_directories="$sockets" \
        -c max_connections=300 -c shared_buffers=64MB -c log_min_error_statement=panic \
        -c log_min_messages=warning </dev/null >>"$log" 2>&1 &
    server=$!
}

cd /
start
tries=0
until PGPASSWORD=$(cat "$password") "$binaries/psql" -h "$sockets" -U mimimi -d postgres -qAtc 'SELECT 1' \
    >/dev/null 2>&1; do
    tries=$((tries + 1))
    if ! kill -0 "$server" 2>/dev/null || [ "$tries" -gt 300 ]; then
        tail -20 "$log" >&2
        fail "the server does not start"
    fi
    sleep 0.1
done
PGPASSWORD=$(cat "$password") "$binaries/createdb" -h "$sockets" -U mimimi mimimi 2>/dev/null || :
echo "ready $sockets $password $data"

while :; do
    wait "$server" || :
    [ "$ending" = no ] || exit 0
    # Processes of the one that died may still be ending; the new one waits for none, it refuses.
    sleep 0.1
    start
done
