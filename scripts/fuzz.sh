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

run() {
    mkdir -p "corpus/$1" "artifacts/$1"
    if "$target_directory/$host/release/$1" "corpus/$1" -max_total_time="$seconds" -timeout=25 -rss_limit_mb=4096 \
        -artifact_prefix="artifacts/$1/" -print_final_stats=1 >"artifacts/$1/log" 2>&1; then
        echo "$1: $(sed -n 's/^stat::number_of_executed_units: *//p' "artifacts/$1/log") inputs in $seconds s, nothing found"
    else
        echo "$1: FOUND SOMETHING, see fuzz/artifacts/$1/" >&2
        touch artifacts/failed
    fi
}

rm -f artifacts/failed
cores=$(nproc)
for target; do
    while [ "$(jobs -p | wc -l)" -ge "$cores" ]; do
        sleep 1
        jobs >/dev/null
    done
    run "$target" &
done
wait
[ ! -e artifacts/failed ]
