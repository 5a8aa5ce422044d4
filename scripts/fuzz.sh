#!/bin/sh
# Fuzzes decoders, guided by coverage: each target of fuzz/ for FUZZ_SECONDS (default 600), as many at once as there
# are cores. With names as arguments only those. Rust's stable compiler does it: libFuzzer is part of
# libfuzzer-sys, and what finds memory errors in C is not needed here.
#
# A finding ends its target, is kept under fuzz/artifacts/TARGET/ with what printed it, and makes this fail.
set -eu
cd "$(dirname "$0")/../fuzz"

seconds=${FUZZ_SECONDS:-600}
target_directory=${CARGO_TARGET_DIR:-target}/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
level=-sanitizer-coverage
if [ $# -eq 0 ]; then
    set -- $(sed -n 's/^name = "\(.*\)"$/\1/p' Cargo.toml | tail -n +2)
fi

# A target triple keeps the flags from build scripts.
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=$level-level=4 -Cllvm-args=$level-inline-8bit-counters \
-Cllvm-args=$level-pc-table -Cllvm-args=$level-trace-compares -Ccodegen-units=1" \
    cargo build --release --locked --bins --target "$host" --target-dir "$target_directory"

rm -f artifacts/failed
export seconds target_directory host
printf '%s\n' "$@" | xargs -P "$(nproc)" -I TARGET sh -c '
    mkdir -p "corpus/TARGET" "artifacts/TARGET"
    if "$target_directory/$host/release/TARGET" "corpus/TARGET" -max_total_time="$seconds" -timeout=25 \
        -rss_limit_mb=4096 -artifact_prefix="artifacts/TARGET/" -print_final_stats=1 >"artifacts/TARGET/log" 2>&1; then
        tried=$(sed -n "s/^stat::number_of_executed_units: *//p" "artifacts/TARGET/log")
        echo "TARGET: $tried inputs in $seconds s, nothing found"
    else
        echo "TARGET: FOUND SOMETHING, see fuzz/artifacts/TARGET/" >&2
        touch artifacts/failed
    fi'
[ ! -e artifacts/failed ]
