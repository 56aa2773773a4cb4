#!/usr/bin/env bash
# What the tests need: rustfmt and clippy, a C compiler, and the real servers and clients of tests/peers.
#
#   scripts/setup.sh       root or not; as root, Debian's packages are installed too
set -euo pipefail
cd "$(dirname "$0")/.."
# A fresh machine may have rustup's folder, and no line about it in its shell's start.
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
say() { echo "setup.sh: $*" >&2; }
command -v cargo >/dev/null || { say "FAILED: no cargo on the PATH: https://rustup.rs"; exit 69; }
for part in rustfmt clippy; do
  cargo "${part/rust/}" --version >/dev/null 2>&1 || rustup component add "$part" ||
    { say "FAILED: no $part, and rustup cannot add it"; exit 69; }
done
debian() { # debian PACKAGE…
  [ "$(id -u)" = 0 ] || { say "FAILED: missing, and this is not root: apt-get install $*"; exit 69; }
  say "apt-get install $*"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q >/dev/null
  apt-get install -y -q --no-install-recommends "$@" >/dev/null
}
# aws-lc and zstd are C.
command -v cc >/dev/null || debian gcc libc6-dev
# Debian keeps it apart from Python.
python3 -c 'import ensurepip' 2>/dev/null || debian python3-venv
[ "${KEYWARD_SKIP_CLIENTS:-}" = 1 ] || tests/peers/install.sh
say "done"
