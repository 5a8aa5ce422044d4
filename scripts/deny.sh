#!/bin/sh
# cargo deny, installed once beside the build if it is not there.
set -eu

tools=${CARGO_TARGET_DIR:-target}/tools
PATH=$tools/bin:$PATH
export PATH
if ! command -v cargo-deny >/dev/null; then
    # A target directory of its own: the profile of a tool has nothing to do with ours.
    CARGO_TARGET_DIR=$tools/build cargo install cargo-deny --version '^0.20' --locked --root "$tools"
    rm -rf "$tools/build"
fi

cargo deny check licenses bans sources

# The advisory database is a git repository, which not every CI machine can reach; without it
# nothing is known, which is not the same as a finding.
if cargo deny fetch db 2>/dev/null; then
    cargo deny check advisories
else
    echo 'deny: the advisory database cannot be reached: advisories were NOT checked' >&2
fi
