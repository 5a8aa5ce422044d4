#!/bin/sh
# Sees to what a build needs besides Rust, gcc and make: a C++ compiler (RocksDB) and libclang with
# headers (bindgen, which reads RocksDB's); and to what the tests need besides: PostgreSQL's server
# programs. Has RocksDB compiled, once for all clones (rocksdb.sh). Writes what must be exported to
# the file $1.
#
#   as root, with apt-get:   Debian's packages
#   otherwise:               libclang from its wheel on PyPI, and gcc's own headers
#
# MIMIMI_WITHOUT_POSTGRES=1 leaves PostgreSQL out, here and in the tests.
# MIMIMI_LIBCLANG=wheel skips the system's libclang and Debian's packages: that way can be tested
# where the other one would do.
set -eu

exports=$1
mkdir -p "$(dirname "$exports")"
wheel_directory=$(dirname "$exports")/libclang

say() { echo "setup: $*" >&2; }
fail() {
    say "$*"
    exit 1
}

can_use_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

apt_is_updated=no
apt_update_once() {
    [ "$apt_is_updated" = yes ] && return
    say "apt-get update"
    apt-get update -qq >&2
    apt_is_updated=yes
}

apt_install() {
    say "apt-get install $*"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

have_cxx() {
    printf '#include <vector>\nint main() {}\n' | "${CXX:-c++}" -x c++ -fsyntax-only - 2>/dev/null
}

# Prints the directory of the newest libclang that the system has. Only names that bindgen's loader
# takes: libclang-cpp.so, which every desktop has, is another library.
system_libclang() {
    for directory in $(ls -d /usr/lib/llvm-*/lib /usr/lib64/llvm*/lib 2>/dev/null | sort -rV) \
        /usr/lib /usr/lib64 /usr/local/lib "/usr/lib/$(gcc -dumpmachine)"; do
        for library in "$directory"/libclang.so "$directory"/libclang.so.* "$directory"/libclang-[0-9]*.so*; do
            if [ -e "$library" ]; then
                echo "$directory"
                return
            fi
        done
    done
}

# Whether the libclang in directory $1 has the headers that belong to the compiler (stddef.h, …).
has_headers() {
    for header in "$1"/clang/*/include/stddef.h; do
        [ -e "$header" ] && return
    done
    return 1
}

use_gcc_headers() {
    echo "export BINDGEN_EXTRA_CLANG_ARGS='-I$(gcc -print-file-name=include)'" >>"$exports"
}

# Debian names its packages by version; what is installed is the newest that it has.
apt_libclang() {
    apt_update_once
    version=$(apt-cache pkgnames libclang1- | sed -n 's/^libclang1-\([0-9][0-9]*\)$/\1/p' | sort -n | tail -1)
    [ -n "$version" ] || return 1
    apt_install "libclang1-$version" "libclang-common-$version-dev"
}

# Prints the directory of the library that came out of the wheel.
wheel_libclang() {
    find "$wheel_directory" -name libclang.so -exec dirname {} \; 2>/dev/null | head -1
}

# A wheel is a zip file: no installation is needed, only somebody who fetches it.
fetch_wheel() {
    [ -n "$(wheel_libclang)" ] && return
    python=$(command -v python3 || command -v python) || return 1
    mkdir -p "$wheel_directory"
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m venv "$wheel_directory/venv" >&2 || return 1
        python=$wheel_directory/venv/bin/python
    fi
    say "fetching the libclang wheel from PyPI"
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps \
        --only-binary=:all: --dest "$wheel_directory" libclang >&2 || return 1
    "$python" -c 'import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extractall(sys.argv[2])' \
        "$(ls "$wheel_directory"/libclang-*.whl | tail -1)" "$wheel_directory" || return 1
    [ -n "$(wheel_libclang)" ]
}

have_postgres() {
    for initdb in /usr/lib/postgresql/*/bin/initdb "$(command -v initdb || :)"; do
        [ -x "$initdb" ] && return
    done
    return 1
}

# The programs only: Debian's package would also make a database and start a server.
apt_postgres() {
    apt_update_once
    apt_install postgresql-common
    conf=/etc/postgresql-common/createcluster.conf
    if [ -f "$conf" ]; then
        sed -i 's/^#* *create_main_cluster *=.*/create_main_cluster = false/' "$conf"
    fi
    apt_install postgresql
}

command -v cargo >/dev/null || fail "Rust is missing: see https://rustup.rs"
command -v gcc >/dev/null || fail "gcc is missing"

if ! have_cxx; then
    can_use_apt || fail "a C++ compiler is missing (RocksDB is C++): install g++, or run this as root"
    apt_update_once
    apt_install g++
fi

: >"$exports.new"
final=$exports
exports=$exports.new
if [ -n "${LIBCLANG_PATH:-}" ]; then
    say "libclang is where LIBCLANG_PATH says"
else
    found=
    if [ "${MIMIMI_LIBCLANG:-}" != wheel ]; then
        found=$(system_libclang)
        if [ -z "$found" ] && can_use_apt && apt_libclang; then
            found=$(system_libclang)
        fi
    fi
    if [ -n "$found" ]; then
        has_headers "$found" || use_gcc_headers
    elif fetch_wheel; then
        echo "export LIBCLANG_PATH='$(wheel_libclang)'" >>"$exports"
        use_gcc_headers
    else
        fail "libclang is missing. Do one of these:
  - run this as root on Debian or Ubuntu
  - install your system's libclang and set LIBCLANG_PATH to the directory of libclang.so
  - install python3 with pip or venv, so that the wheel 'libclang' can be fetched from PyPI"
    fi
fi

# In a subshell: what RocksDB is compiled with is what was just found.
rocksdb=$(. "$exports" && sh "$(dirname "$0")/rocksdb.sh")
{
    echo "export ROCKSDB_LIB_DIR='$rocksdb'"
    echo "export ROCKSDB_STATIC=1"
} >>"$exports"
mv "$exports" "$final"

if [ "${MIMIMI_WITHOUT_POSTGRES:-}" != 1 ] && ! have_postgres; then
    if can_use_apt; then
        apt_postgres
    else
        say "PostgreSQL is missing: everything builds, but tests that need its server will fail. Install
  your system's package, or run this as root on Debian or Ubuntu, or set MIMIMI_WITHOUT_POSTGRES=1"
    fi
fi
