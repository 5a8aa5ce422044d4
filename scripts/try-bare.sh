#!/bin/sh
# Runs a command, `make test` unless told otherwise, on a fresh Debian machine: a minimal tree with
# gcc and make, this machine's cargo and rustup mounted, and this clone's files as they are. What the
# build needs beyond that it has to install itself. Root and debootstrap are needed.
#
#   scripts/try-bare.sh                     make test, nothing else installed
#   scripts/try-bare.sh --desktop           with libclang-cpp, which every desktop with Mesa has
#   scripts/try-bare.sh --share-rocksdb     with RocksDB as this machine has it compiled already
#   scripts/try-bare.sh -- make demo        another command
#
# The pristine tree is kept in TRY_BARE_DIR (default /var/tmp/mimimi-bare) and copied for each run.
# TRY_BARE_MIRROR and TRY_BARE_SUITE are debootstrap's (http://deb.debian.org/debian, bookworm).
set -eu

base=${TRY_BARE_DIR:-/var/tmp/mimimi-bare}
suite=${TRY_BARE_SUITE:-bookworm}
mirror=${TRY_BARE_MIRROR:-http://deb.debian.org/debian}
clone=$(cd "$(dirname "$0")/.." && pwd)
desktop=no
share_rocksdb=no

say() { echo "try-bare: $*" >&2; }
fail() {
    say "$*"
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
    --desktop) desktop=yes ;;
    --share-rocksdb) share_rocksdb=yes ;;
    --)
        shift
        break
        ;;
    *) fail "unknown option $1" ;;
    esac
    shift
done
[ $# -gt 0 ] || set -- make test

[ "$(id -u)" = 0 ] || fail "this needs root (chroot, mounts)"
command -v debootstrap >/dev/null || fail "debootstrap is missing"
rustup_home=${RUSTUP_HOME:-$HOME/.rustup}
cargo_home=${CARGO_HOME:-$HOME/.cargo}
[ -d "$rustup_home" ] || fail "there is no rustup in $rustup_home"

pristine=$base/$suite
if [ ! -e "$pristine.complete" ]; then
    say "making the tree $pristine"
    rm -rf "$pristine"
    mkdir -p "$pristine"
    debootstrap --variant=minbase --include=gcc,libc6-dev,make,ca-certificates \
        "$suite" "$pristine" "$mirror" >&2
    : >"$pristine.complete"
fi

# A mount namespace of its own: whatever happens, no mount is left behind.
if [ "${TRY_BARE_INSIDE:-}" != yes ]; then
    options=
    [ "$desktop" = no ] || options="$options --desktop"
    [ "$share_rocksdb" = no ] || options="$options --share-rocksdb"
    export TRY_BARE_INSIDE=yes
    # shellcheck disable=SC2086
    exec unshare --mount sh "$clone/scripts/try-bare.sh" $options -- "$@"
fi

run=$(mktemp -d "$base/run.XXXXXX")
trap 'umount -R "$run/tree" 2>/dev/null || :; rm -rf --one-file-system "$run"' EXIT
tree=$run/tree
mkdir "$tree" "$run/upper" "$run/work"
if ! mount -t overlay overlay -o "lowerdir=$pristine,upperdir=$run/upper,workdir=$run/work" "$tree" 2>/dev/null; then
    cp -a "$pristine/." "$tree"
    mount --bind "$tree" "$tree"
fi

mount -t proc proc "$tree/proc"
mount --rbind /dev "$tree/dev"
mount --make-rslave "$tree/dev"
mkdir -p "$tree/root/.rustup" "$tree/root/.cargo" "$tree/root/.cache" "$tree/src"
mount --bind "$rustup_home" "$tree/root/.rustup"
mount --bind "$cargo_home" "$tree/root/.cargo"
cp /etc/resolv.conf /etc/hosts "$tree/etc/"
# This machine may reach its registries through a certificate authority of its own.
cp /etc/ssl/certs/ca-certificates.crt "$tree/etc/ssl/certs/ca-certificates.crt"
if [ "$share_rocksdb" = yes ]; then
    mkdir -p "$tree/root/.cache/mimimi/rocksdb" "$HOME/.cache/mimimi/rocksdb"
    mount --bind "$HOME/.cache/mimimi/rocksdb" "$tree/root/.cache/mimimi/rocksdb"
fi
(cd "$clone" && git ls-files --cached --others --exclude-standard -z |
    tar --create --null --files-from=- --file=-) | tar --extract --file=- --directory "$tree/src"

inside() {
    chroot "$tree" /usr/bin/env -i HOME=/root LANG=C.UTF-8 CI="${CI:-}" \
        PATH=/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        sh -c 'cd /src && exec "$@"' sh "$@"
}

if [ "$desktop" = yes ]; then
    say "installing libclang-cpp, without libclang"
    inside apt-get update -qq >&2
    package=$(inside apt-cache pkgnames libclang-cpp | grep -E '^libclang-cpp[0-9]+$' | sort -V | tail -1)
    inside apt-get install -y -qq --no-install-recommends "$package" >&2
fi

say "running: $*"
inside "$@"
