#!/bin/sh
# Builds the SDK for browsers into web-sdk/dist (`make web-sdk`). On Debian, as root, it installs what
# is missing: a compiler with the sources of its standard library, clang for SQLite's C, and a linker.
# Whoever has the target wasm32-unknown-unknown of rustup uses that instead.
set -eu

say() { echo "wasm: $*" >&2; }

cd "$(dirname "$0")/.."
target=wasm32-unknown-unknown
bindgen=0.2.130
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mimimi/wasm-bindgen
out=${CARGO_TARGET_DIR:-target}/web

need() {
    [ -z "$missing" ] && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing$missing"
        apt-get update -qq >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
    else
        say "install$missing first"
        exit 1
    fi
}

missing=
command -v clang-14 >/dev/null || missing="$missing clang-14"
command -v llvm-ar-14 >/dev/null || missing="$missing llvm-14"
if rustup target list --installed 2>/dev/null | grep -q "^$target\$"; then
    need
    cargo=cargo
    std=
else
    [ -x /usr/bin/rustc ] || missing="$missing rustc-web"
    [ -x /usr/bin/cargo ] || missing="$missing cargo-web"
    [ -d /usr/lib/rustlib/src/rust/library ] || missing="$missing rust-web-src"
    command -v wasm-ld-14 >/dev/null || missing="$missing lld-14"
    need
    # Debian's compiler has no standard library for browsers: it is compiled here, which only this
    # variable allows a release to do.
    export RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc
    export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=wasm-ld-14
    cargo=/usr/bin/cargo
    std=-Zbuild-std=std,panic_abort
fi
export CC_wasm32_unknown_unknown=clang-14 AR_wasm32_unknown_unknown=llvm-ar-14
# Randomness comes from the browser.
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS='--cfg getrandom_backend="wasm_js"'

# Its release must be that of the crate. The first of two clones installs it, the second finds it.
mkdir -p "$cache"
exec 9>"$cache/$bindgen.lock"
flock 9
if [ ! -x "$cache/$bindgen/bin/wasm-bindgen" ]; then
    say "compiling wasm-bindgen $bindgen"
    CARGO_TARGET_DIR="$out/tools" cargo install wasm-bindgen-cli --version "$bindgen" --debug \
        --root "$cache/$bindgen" >&2
fi
flock -u 9

CARGO_TARGET_DIR="$out" $cargo build --locked $std --target "$target" \
    --package mimimi-web-sdk --lib --profile web >&2
"$cache/$bindgen/bin/wasm-bindgen" --target web --out-dir web-sdk/src/wasm --out-name mimimi_web_sdk \
    "$out/$target/web/mimimi_web_sdk.wasm"

sh scripts/npm.sh web-sdk ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2
rm -rf web-sdk/dist
sh scripts/npm.sh web-sdk run --silent build >&2
mkdir -p web-sdk/dist/wasm
cd web-sdk
for file in mimimi_web_sdk.js mimimi_web_sdk.d.ts mimimi_web_sdk_bg.wasm; do
    cp "src/wasm/$file" dist/wasm/
done
wasm=dist/wasm/mimimi_web_sdk_bg.wasm
say "$(wc -c <"$wasm") bytes, $(gzip -9c "$wasm" | wc -c) gzipped"
