#!/usr/bin/env bash
# keyward beside nginx, squid, mitmproxy, hudsucker and bare hyper: installs them, builds a release, measures.
#
#   scripts/bench.sh [arguments of benches/compare.py, such as --write docs/performance-figures.md]
set -euo pipefail
cd "$(dirname "$0")/.."
tests/peers/install.sh --bench
if [ -z "${KEYWARD:-}" ]; then
  cargo build --locked --release --bin keyward
  export KEYWARD=${CARGO_TARGET_DIR:-target}/release/keyward
fi
exec python3 benches/compare.py "$@"
