#!/bin/sh
# Compiles RocksDB once for this machine and prints the directory of librocksdb.a.
#
# RocksDB is the one dear part of a build, and the same for every clone. So the library lies in a
# cache that all clones share, under a name made of all that it depends on: the crate's version, its
# features, the compiler, the flags and the files per unit. Everything else is built in each clone's
# own target directory. ROCKSDB_LIB_DIR, when set, is taken as it is.
#
# Most of the compiler's work is the same headers, once for each of 342 files. So eight files are
# one unit, a file that includes them: six minutes of two cores instead of 18.
set -eu

say() { echo "rocksdb: $*" >&2; }

if [ -n "${ROCKSDB_LIB_DIR:-}" ]; then
    say "the library is where ROCKSDB_LIB_DIR says"
    echo "$ROCKSDB_LIB_DIR"
    exit
fi

root=$(cd "$(dirname "$0")/.." && pwd)
version=$(awk '/^name = "librocksdb-sys"$/ { getline; gsub(/"/, "", $3); print $3 }' "$root/Cargo.lock")
[ -n "$version" ] || { say "Cargo.lock names no librocksdb-sys"; exit 1; }

manifest='[package]
name = "rocksdb-library"
version = "0.0.0"
edition = "2024"

[lib]
path = "lib.rs"

[dependencies]
librocksdb-sys = { path = "librocksdb-sys", default-features = false, features = ["bindgen-runtime"] }

[workspace]
'
files_per_unit=8
compiler=$("${CXX:-c++}" --version | head -1)
name=$(printf '%s\n' "$version" "$files_per_unit" "$manifest" "$compiler" "${CXXFLAGS:-}" "$(uname -m)" |
    sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mimimi/rocksdb
directory=$cache/$version-$name

if [ ! -e "$directory/librocksdb.a" ]; then
    mkdir -p "$cache"
    # Two clones at once: the second waits, and finds what the first has built.
    exec 9>"$cache/$version-$name.lock"
    flock 9
fi
if [ ! -e "$directory/librocksdb.a" ]; then
    say "compiling RocksDB ($version), once for all clones; this takes about 10 CPU minutes"
    build=$cache/$version-$name.build
    rm -rf "$build/librocksdb-sys"
    mkdir -p "$build"
    source=$(cargo metadata --format-version 1 --locked --manifest-path "$root/Cargo.toml" | tr ',' '\n' |
        sed -n 's|^"manifest_path":"\(.*librocksdb-sys.*\)/Cargo.toml"$|\1|p')
    [ -d "$source" ] || { say "cargo names no directory of librocksdb-sys"; exit 1; }
    cp -R "$source" "$build/librocksdb-sys"
    # What the crate compiles is this list, less the file that it brings a version of its own of.
    list=$build/librocksdb-sys/rocksdb_lib_sources.txt
    grep -v -e '^util/build_version\.cc$' -e '^$' "$list" | awk -v n="$files_per_unit" \
        -v directory="$build/librocksdb-sys/rocksdb" '{
            unit = "unit_" int((NR - 1) / n) ".cc"
            print "#include \"" $1 "\"" >(directory "/" unit)
            if (NR % n == 1) print unit
        }' >"$list.new"
    mv "$list.new" "$list"
    printf '%s' "$manifest" >"$build/Cargo.toml"
    : >"$build/lib.rs"
    # The same releases of bindgen and cc as in the workspace; cargo drops the entries it has no use for.
    cp "$root/Cargo.lock" "$build/Cargo.lock"
    CARGO_TARGET_DIR="$build/target" cargo build --release --manifest-path "$build/Cargo.toml" >&2
    library=$(ls "$build"/target/release/build/librocksdb-sys-*/out/librocksdb.a | head -1)
    # Whole or not at all: a build that is interrupted leaves no half library.
    mkdir -p "$directory"
    cp "$library" "$directory/librocksdb.a.new"
    mv "$directory/librocksdb.a.new" "$directory/librocksdb.a"
    rm -rf "$build"
fi
echo "$directory"
