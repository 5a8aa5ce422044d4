#!/bin/sh
# Runs npm in a directory, with the Node.js of `scripts/node.sh` and the machine's own authorities:
#
#   scripts/npm.sh DIRECTORY ARGUMENTS…
set -eu

node=$(sh "$(dirname "$0")/node.sh")
export PATH="$node/bin:$PATH"
export NODE_EXTRA_CA_CERTS="${NODE_EXTRA_CA_CERTS:-$node/../../../authorities.crt}"
cd "$1"
shift
exec node "$node/lib/node_modules/npm/bin/npm-cli.js" "$@"
