#!/usr/bin/env bash
# Builds the container image with buildah, or with docker where its daemon answers.
#
#   scripts/image.sh [NAME]      NAME is keyward unless given
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:-keyward}
if command -v buildah >/dev/null; then
  exec buildah build --layers --tag "$name" .
elif docker info >/dev/null 2>&1; then
  exec docker build --tag "$name" .
fi
echo "image.sh: neither buildah nor a running docker: apt-get install buildah" >&2
exit 69
