#!/bin/sh
# Prints the path of a Chromium that tests can drive: CHROMIUM if that is set, else one that is
# installed. As root with apt-get it installs Debian's.
set -eu

say() { echo "chromium: $*" >&2; }

find_one() {
    for name in chromium chromium-browser google-chrome; do
        command -v "$name" && return
    done
    return 1
}

if [ -n "${CHROMIUM:-}" ]; then
    [ -x "$CHROMIUM" ] || { say "CHROMIUM is no program: $CHROMIUM"; exit 1; }
    echo "$CHROMIUM"
    exit
fi
find_one && exit
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing Debian's chromium"
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        chromium fonts-noto-core fonts-noto-color-emoji >&2
    find_one && exit
fi
say "there is none: install chromium, or say where it is by CHROMIUM=PATH"
exit 1
