#!/usr/bin/env bash
# Real clients through keyward against real servers: installs both, builds the binary, runs the matrix.
#
#   scripts/clients.sh [arguments of tests/clients/run.py]
set -euo pipefail
cd "$(dirname "$0")/.."
tests/peers/install.sh
if [ -z "${KEYWARD:-}" ]; then
  cargo build --locked --bin keyward
  export KEYWARD=${CARGO_TARGET_DIR:-target}/debug/keyward
fi
exec python3 tests/clients/run.py "$@"
