#!/usr/bin/env python3
"""nginx over TLS (h1 and h2, gzip) in front of httpbin and of static files; only the real key gets a 200.

/anything and the rest of httpbin echo what they were sent, the injected key too: that is what scrubbing must catch.
/x-api-key/… asks for the key in `x-api-key`; /static/1k.json and /static/100m.bin are files; /simple/, /npm/ and /cargo/
are private registries of one package each, made by packages.py.
"""

import base64
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import packages
from peer import Peer, free_port, ready

CONFIG = """
daemon off;
user root;
pid {dir}/nginx.pid;
error_log {dir}/nginx-error.log warn;
worker_processes 1;
events {{ worker_connections 4096; }}
http {{
  log_format seen escape=json '{{"path":"$request_uri","status":$status,"protocol":"$server_protocol",'
    '"authorization":"$http_authorization","x-api-key":"$http_x_api_key"}}';
  access_log {dir}/web.seen seen;
  client_body_temp_path {dir}/nginx-body;
  proxy_temp_path {dir}/nginx-proxy;
  fastcgi_temp_path {dir}/nginx-fastcgi;
  uwsgi_temp_path {dir}/nginx-uwsgi;
  scgi_temp_path {dir}/nginx-scgi;
  client_max_body_size 256m;
  types {{ text/html html; application/json json; application/octet-stream bin; }}
  gzip on;
  gzip_min_length 200;
  gzip_types application/json text/plain;
  map_hash_bucket_size 256;
  map $http_authorization $bearer {{ default 0; "Bearer {key}" 1; "Basic {basic}" 1; "{key}" 1; }}
  map $http_x_api_key $header {{ default 0; "{key}" 1; }}
  upstream httpbin {{ server unix:{dir}/httpbin.sock; keepalive 8; }}
  server {{
    listen 127.0.0.1:{port} ssl http2;
    ssl_certificate {dir}/server.pem;
    ssl_certificate_key {dir}/server.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    keepalive_requests 1000000;
    error_page 401 = @refused;
    location @refused {{ default_type application/json; return 401 '{{"error":"wrong key"}}'; }}
    location /x-api-key/ {{
      if ($header = 0) {{ return 401; }}
      default_type application/json;
      return 200 '{{"ok":true,"echo":"$http_x_api_key"}}';
    }}
    location ~ ^/(static|simple|npm|cargo)/ {{
      if ($bearer = 0) {{ return 401; }}
      add_header x-echo $http_authorization;
      index index.html;
      root {dir};
    }}
    location / {{
      if ($bearer = 0) {{ return 401; }}
      proxy_pass http://httpbin;
      proxy_http_version 1.1;
      proxy_set_header connection "";
      proxy_set_header host $host;
    }}
  }}
}}
"""


def statics(peer: Peer) -> None:
    folder = peer.dir / "static"
    folder.mkdir(exist_ok=True)
    (folder / "1k.json").write_text(json.dumps({"filler": "x" * 1000}))
    block = random.Random(1).randbytes(1 << 20)
    with (folder / "100m.bin").open("wb") as big:
        for _ in range(100):
            big.write(block)


def wait_for(child: subprocess.Popen, file: Path, log: Path) -> None:
    while not file.exists():
        if child.poll() is not None:
            sys.exit(f"{child.args[0]} ended: see {log}")
        time.sleep(0.05)


def main() -> None:
    peer = Peer("web")
    statics(peer)
    packages.write(peer.dir)
    port = free_port()
    basic = base64.b64encode(f"user:{peer.real_key}".encode()).decode()
    config = peer.dir / "nginx.conf"
    config.write_text(CONFIG.format(dir=peer.dir, port=port, key=peer.real_key, basic=basic))
    nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin") or sys.exit("nginx is missing: run install.sh")
    children = [subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "--threads=16", f"--bind=unix:{peer.dir}/httpbin.sock", "httpbin:app"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(peer.dir / "httpbin.log").open("w"),
    )]
    try:
        wait_for(children[0], peer.dir / "httpbin.sock", peer.dir / "httpbin.log")
        words = [nginx, "-e", f"{peer.dir}/nginx-error.log", "-c", str(config)]
        children.append(subprocess.Popen(words, stdin=subprocess.DEVNULL))
        wait_for(children[1], peer.dir / "nginx.pid", peer.dir / "nginx-error.log")
        ready(port)
        sys.stdin.buffer.read()
    finally:
        for child in children:
            child.terminate()
            child.wait()


main()
