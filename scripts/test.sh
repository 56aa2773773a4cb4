#!/usr/bin/env bash
# Everything that CI runs, from a fresh Debian or Ubuntu with Rust, Python and Node: set-up, then every test.
#
#   scripts/test.sh                          ends with the closing lines of the test runners
#   KEYWARD_SKIP_CLIENTS=1 scripts/test.sh   without real clients and servers, and what they have to be installed for
#
# KEYWARD_CACHE (default ~/.cache/keyward) holds what is installed. With CI=true the build goes to
# ${KEYWARD_TARGET:-~/.cache/keyward/target}, so that the next clone of the same machine finds it warm.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
export PATH
if [ "${CI:-}" = true ]; then
  export CARGO_TARGET_DIR=${KEYWARD_TARGET:-${KEYWARD_CACHE:-$HOME/.cache/keyward}/target}
  export CARGO_INCREMENTAL=0
fi
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
step() { echo "== $* ($(date +%T))" >&2; }

step "set-up"
scripts/setup.sh

step "format"
cargo fmt --check

step "lints"
cargo clippy --locked --all-targets -- -D warnings

step "tests"
runner=$(mktemp)
trap 'rm -f "$runner"' EXIT
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --locked --profile ci 2>&1 | tee "$runner"
else
  cargo test --locked --no-fail-fast 2>&1 | tee "$runner"
fi

step "examples of the docs"
cargo test --locked --doc

step "shipped configurations"
# The tests built it; a build by itself would compile the dependencies again with other features.
keyward=${CARGO_TARGET_DIR:-target}/debug/keyward
for file in config/*.toml; do
  "$keyward" check -c "$file"
done

if [ "${KEYWARD_SKIP_CLIENTS:-}" = 1 ]; then
  step "real clients: left out by KEYWARD_SKIP_CLIENTS"
else
  step "real clients against real servers"
  KEYWARD=$(realpath "$keyward") python3 tests/clients/run.py
  step "AWS's clients against services that verify signatures"
  KEYWARD=$(realpath "$keyward") python3 tests/clients/aws_run.py
  KEYWARD=$(realpath "$keyward") python3 tests/clients/s3_run.py
fi

# Again at the end, as their runner said it.
grep -E '^ *(Summary|test result:)' "$runner"
