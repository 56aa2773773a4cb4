#!/usr/bin/env python3
"""boto3 and `aws`, with placeholder keys, through keyward against s3s-fs: an S3 that verifies signatures by itself.

    KEYWARD=target/debug/keyward tests/clients/s3_run.py        closes with a count

It verifies what moto does not: signatures in a query, of each chunk and of trailers, and the digests of bodies.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from stage import Rows, Stage, free_port, listens

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("KEYWARD_CACHE") or Path.home() / ".cache/keyward")
BIN, S3 = CACHE / "moto/bin", CACHE / "s3/bin/s3s-fs"
DUMMY_ID, DUMMY_KEY = "AKIAkeyward000000000", "keyward000000000000000000000000000000000"
HOSTS = ["s3.test", "bucket.s3.test", "wrong.test"]
BIG = 100


class S3Stage(Stage):
    def __init__(self) -> None:
        super().__init__("s3")
        self.token = f"proxy-{secrets.token_hex(16)}"
        self.id, self.key = f"AKIA{secrets.token_hex(8).upper()}", secrets.token_hex(20)
        for name in ("home", "root/bucket"):
            (self.dir / name).mkdir(parents=True)
        for name, text in (("id", self.id), ("key", self.key), ("wrong", "w" * 40), ("token", self.token)):
            self.secret(name, text)
        subprocess.run([HERE.parent / "peers/ca.sh", self.dir, *HOSTS], check=True)
        self.environment = {"PATH": os.environ["PATH"] + ":/usr/sbin", "HOME": str(self.dir / "home")}

    def open(self, binary: str) -> None:
        store, front, self.proxy, admin = (free_port() for _ in range(4))
        self.start("s3s", [S3, "--host", "127.0.0.1", "--port", store, "--access-key", self.id, "--secret-key", self.key,
                           "--domain", "s3.test", self.dir / "root"], {**self.environment, "RUST_LOG": "warn"}, listens(store))
        (self.dir / "nginx.conf").write_text(f"""
daemon off; worker_processes 1; pid {self.dir}/nginx.pid; error_log {self.dir}/nginx-error.log;
events {{ worker_connections 256; }}
http {{
    log_format seen escape=json '{{"host":"$http_host","request":"$request","status":$status,'
        '"authorization":"$http_authorization","payload":"$http_x_amz_content_sha256","range":"$http_range"}}';
    access_log {self.dir}/seen.jsonl seen;
    client_max_body_size 0; proxy_request_buffering off; proxy_buffering off; proxy_http_version 1.1;
    proxy_set_header Host $http_host; proxy_set_header Connection ""; proxy_read_timeout 120s;
    client_body_temp_path {self.dir}/b; proxy_temp_path {self.dir}/p; fastcgi_temp_path {self.dir}/f;
    uwsgi_temp_path {self.dir}/u; scgi_temp_path {self.dir}/s;
    server {{
        listen 127.0.0.1:{front} ssl;
        ssl_certificate {self.dir}/server.pem;
        ssl_certificate_key {self.dir}/server.key;
        location / {{ proxy_pass http://127.0.0.1:{store}; }}
    }}
}}""")
        self.start("nginx", [shutil.which("nginx", path=self.environment["PATH"]), "-c", self.dir / "nginx.conf", "-p",
                             self.dir], self.environment, listens(front))
        targets = ", ".join(f'"{host}:443" = "127.0.0.1:{front}"' for host in HOSTS)
        keys = '{ static = { access-key-id = { file = "id" }, secret-access-key = { file = "%s" } } }'
        (self.dir / "keyward.toml").write_text(f"""
[proxy]
listen = ["127.0.0.1:{self.proxy}"]
[admin]
listen = "127.0.0.1:{admin}"
[ca]
dir = "ca"
[audit]
file = "audit.jsonl"
[upstream]
trust = ["ca.pem"]
connect-to = {{ {targets} }}
[agent.tester]
token = {{ file = "token" }}
[credential.right.aws]
source = {keys % "key"}
region = "us-east-1"
[credential.wrong.aws]
source = {keys % "wrong"}
region = "us-east-1"
[[route]]
hosts = ["s3.test", "*.s3.test"]
methods = ["GET", "HEAD", "PUT", "POST", "DELETE"]
credential = "right"
inject = {{ sigv4 = {{ service = "s3", region = "us-east-1" }} }}
[[route]]
hosts = ["wrong.test"]
credential = "wrong"
inject = {{ sigv4 = {{ service = "s3", region = "us-east-1" }} }}
""")
        ready = lambda: urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=1).status == 200  # noqa: E731
        self.start("keyward", [binary, "serve", "-c", "keyward.toml"], {**self.environment, "RUST_LOG": "trace"}, ready)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.proxy}/ca.pem", timeout=5) as answer:
            (self.dir / "agents-ca.pem").write_bytes(answer.read())

    def ask(self, *words: object) -> subprocess.CompletedProcess:
        """A client that has placeholders."""
        proxy = f"http://tester:{self.token}@127.0.0.1:{self.proxy}"
        environment = {
            **self.environment, "HTTPS_PROXY": proxy, "HTTP_PROXY": proxy, "AWS_ACCESS_KEY_ID": DUMMY_ID,
            "AWS_SECRET_ACCESS_KEY": DUMMY_KEY, "AWS_CA_BUNDLE": str(self.dir / "agents-ca.pem"),
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_PAGER": "",
            "AWS_ENDPOINT_URL_S3": "https://s3.test", "PYTHONDONTWRITEBYTECODE": "1"}
        return self.client(*words, environment=environment)


def main() -> None:
    binary = os.environ.get("KEYWARD")
    if not (binary and Path(binary).exists()):
        sys.exit("s3_run.py: set KEYWARD to the keyward binary")
    if not (S3.exists() and (BIN / "python").exists()):
        sys.exit("s3_run.py: the test environment is missing: run tests/peers/install.sh")
    stage, row, reached = S3Stage(), Rows(), b""

    try:
        stage.open(str(Path(binary).resolve()))
        big = stage.dir / "home/big"
        with big.open("wb") as out:
            for _ in range(BIG):
                out.write(os.urandom(1 << 20))

        begun = time.monotonic()
        done = stage.ask(BIN / "python", HERE / "s3_boto3.py")
        reached += done.stdout + done.stderr
        for line in done.stdout.decode().splitlines():
            step = json.loads(line)
            row(f"boto3: {step['name']}", step["ok"], step["detail"])
        row("boto3 came to its end", done.returncode == 0, f"{time.monotonic() - begun:.1f} s {done.stderr.decode()[-300:]}")

        aws = [BIN / "python", BIN / "aws"]
        for name, words in (
            ("s3 cp of 100 MiB up", ["s3", "cp", "big", "s3://bucket/by aws/big+1", "--no-progress"]),
            ("s3 ls", ["s3", "ls", "s3://bucket/by aws/"]),
            ("s3 cp of 100 MiB down", ["s3", "cp", "s3://bucket/by aws/big+1", "returned", "--no-progress"]),
            ("s3api get-object, a slice", ["s3api", "get-object", "--bucket", "bucket", "--key", "by aws/big+1", "--range",
                                           "bytes=1000000-1000099", "slice"]),
        ):
            begun = time.monotonic()
            done = stage.ask(*aws, *words)
            reached += done.stdout + done.stderr
            text = (done.stdout + done.stderr).decode().replace("\n", " ")
            row(f"aws {name}", done.returncode == 0, f"{time.monotonic() - begun:.1f} s {text}")
        back, piece = stage.dir / "home/returned", stage.dir / "home/slice"
        row("the 100 MiB are the same", back.exists() and back.read_bytes() == big.read_bytes(), "")
        wanted = big.read_bytes()[1_000_000:1_000_100]
        row("so is the slice", piece.exists() and piece.read_bytes() == wanted, "")

        seen = [json.loads(line) for line in (stage.dir / "seen.jsonl").read_text().splitlines()]
        text = json.dumps(seen)
        row("no placeholder went up", DUMMY_ID not in text and "keyward0000" not in text, f"{len(seen)} requests")
        row("nor did the proxy's token", stage.token not in text, "")
        payloads = {one["payload"] for one in seen if one["payload"].startswith("STREAMING")}
        row("chunks of three kinds were among them", len(payloads) == 3, ", ".join(sorted(payloads)))
        row("both styles of names", {"s3.test", "bucket.s3.test"} <= {one["host"] for one in seen}, "")
        row("empty segments as they were", any("/down//er///still" in one["request"] for one in seen), "")
        logs = (stage.dir / "keyward.log").read_bytes() + (stage.dir / "audit.jsonl").read_bytes()
        row("no secret reached a client", stage.key.encode() not in reached, f"{len(reached)} bytes")
        row("no secret is in log or audit trail", stage.key.encode() not in logs, f"{len(logs)} bytes, log at trace")
    finally:
        row.close(stage)
    row.exit()


main()
