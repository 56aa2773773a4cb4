#!/usr/bin/env bash
# Make a throw-away CA and one server certificate for loopback names: `ca.sh DIR [NAME…]`.
#
# DIR gets ca.pem, ca.key, server.pem, server.key. Keys live as long as the test's temporary folder.
set -euo pipefail
dir=${1:?usage: ca.sh DIR [NAME…]}
shift
umask 077
cd "$dir"
names=DNS:localhost,IP:127.0.0.1
for name in api xkey ws sse grpc mcp git plain tunnel index npm cargo; do names+=,DNS:$name.test; done
for name in api.openai.com api.anthropic.com generativelanguage.googleapis.com storage.googleapis.com api.github.com; do names+=,DNS:$name; done
for name in "$@"; do names+=,DNS:$name; done
ec=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
openssl req -x509 "${ec[@]}" -keyout ca.key -out ca.pem -days 2 -subj "/CN=keyward test CA" \
  -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" 2>/dev/null
openssl req "${ec[@]}" -keyout server.key -out server.csr -subj "/CN=localhost" 2>/dev/null
printf '%s\n' "subjectAltName=$names" "basicConstraints=critical,CA:FALSE" "extendedKeyUsage=serverAuth" \
  "keyUsage=critical,digitalSignature" "authorityKeyIdentifier=keyid" >server.ext
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile server.ext -out leaf.pem 2>/dev/null
cat leaf.pem ca.pem >server.pem
