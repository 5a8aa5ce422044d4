#!/bin/sh
# Builds the wheel of bindings/ and tests it as it will be installed; and writes the bindings for
# Kotlin and Swift, or holds them against those that are checked in.
#
#   scripts/python.sh needs      whether there is a Python to do it with; as root, installs one
#   scripts/python.sh            wheel, types, tests, and whether what is checked in is up to date
#   scripts/python.sh -k WORD    the same, with tests of that name only (pytest's arguments)
#   scripts/python.sh bindings   write that: Kotlin, Swift, and the types of Python
#
# Tools are pinned with hashes (bindings/python/requirements.txt). Python with venv has to be there,
# or this runs as root with apt-get. PROFILE is cargo's (library). `make programs` builds what
# writes bindings, and the services that tests need.
set -eu

cd "$(dirname "$0")/.."
# What runs below changes the directory.
target=${CARGO_TARGET_DIR:-target}
case $target in /*) ;; *) target=$PWD/$target ;; esac
export CARGO_TARGET_DIR="$target"
profile=${PROFILE:-library}
work=$target/python
bindgen=$target/tested/mimimi-bindgen
generated=bindings/generated
types=bindings/python/mimimi/_sdk/__init__.pyi

say() { echo "python: $*" >&2; }
fail() {
    say "$*"
    exit 1
}

. scripts/pypi.sh
need_python 11
[ "${1:-}" != needs ] || exit 0

[ -x "$bindgen" ] || fail "$bindgen is missing: run make programs"

# Whether virtual environment $1 is there, made of the present requirements; else makes it.
environment() {
    [ -e "$1/made" ] && [ "$1/made" -nt bindings/python/requirements.txt ] && return
    python3 -m venv --clear "$1"
    "$1/bin/pip" --quiet --disable-pip-version-check install --require-hashes --only-binary=:all: \
        --requirement bindings/python/requirements.txt
    touch "$1/made"
}
environment "$work/venv"

# Under the name that maturin looks for. A program of the workspace that had that name would be
# built again, in a profile of its own.
mkdir -p "$work/bin"
ln -sf "$bindgen" "$work/bin/uniffi-bindgen"
PATH="$work/bin:$work/venv/bin:$PATH"
export PATH

# In the profile of tests it is the library that was built with them: alone it would have fewer
# features, and most of what it links would be compiled again.
if [ "$profile" = tested ]; then
    cat >"$work/bin/cargo-with-tests" <<'END'
#!/bin/sh
[ "$1" = rustc ] || exec cargo "$@"
exec cargo build --profile tested --workspace --lib --bins --examples --locked \
    --message-format json-render-diagnostics
END
    chmod +x "$work/bin/cargo-with-tests"
    export CARGO="$work/bin/cargo-with-tests"
fi

rm -rf "$work/wheels"
maturin build --quiet --profile "$profile" --locked --manifest-path bindings/Cargo.toml \
    --compatibility linux --out "$work/wheels"

# What the metadata was read by is not needed any more.
unpacked=$work/unpacked
rm -rf "$unpacked"
python -m wheel unpack --dest "$unpacked" "$work"/wheels/*.whl >/dev/null
strip "$unpacked"/*/mimimi/_sdk/*.so
python -m wheel pack --dest-dir "$work/wheels" "$unpacked"/* >/dev/null
say "$(cd "$work/wheels" && wc -c *.whl)"

rm -rf "$work/generated"
for language in kotlin python swift; do
    uniffi-bindgen generate --language "$language" --config bindings/uniffi.toml \
        --library "$target/$profile/libmimimi_bindings.so" --out-dir "$work/generated/$language"
done
# Of Python its types are checked in, from which the wheel has them.
uniffi-bindgen fields --library "$target/$profile/libmimimi_bindings.so" >"$work/fields.json"
python bindings/python/stubs.py "$work/generated/python/mimimi.py" "$work/fields.json" \
    >"$work/generated/types.pyi"
rm -r "$work/generated/python"

if [ "${1:-}" = bindings ]; then
    rm -rf "$generated"
    cp -r "$work/generated" "$generated"
    mv "$generated/types.pyi" "$types"
    exit
fi

is_same() {
    diff -r --brief "$1" "$2" >&2 || fail "$1 is not what is declared: run make bindings"
}
is_same "$types" "$work/generated/types.pyi"
rm "$work/generated/types.pyi"
is_same "$generated" "$work/generated"

pip --quiet --disable-pip-version-check install --force-reinstall --no-deps "$work"/wheels/*.whl
cd bindings
mypy -m mimimi -m mimimi._errors -m mimimi._sdk
# The types against the module as it is.
python -m mypy.stubtest --allowlist python/stubtest.txt --ignore-unused-allowlist \
    --mypy-config-file python/stubtest.ini mimimi
mypy python/examples python/stubs.py python_tests
pytest "$@"
