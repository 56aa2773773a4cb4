#!/usr/bin/env python3
"""boto3 and `aws`, with placeholder keys, through keyward against moto, which verifies signatures and session tokens.

    KEYWARD=target/debug/keyward tests/clients/aws_run.py        closes with a count

Two motos stand behind one nginx that ends TLS: one that asks for authorization (STS, S3, Secrets Manager, DynamoDB), and
one that does not, for `AssumeRoleWithWebIdentity`, whose tokens moto cannot verify. The clients know no key that counts.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("KEYWARD_CACHE") or Path.home() / ".cache/keyward")
BIN = CACHE / "moto/bin"
if not (BIN / "python").exists():
    sys.exit("aws_run.py: the test environment is missing: run tests/peers/install.sh")
if Path(sys.prefix).resolve() != (CACHE / "moto").resolve():
    os.execv(BIN / "python", [str(BIN / "python"), *sys.argv])

import boto3  # noqa: E402
from botocore.config import Config  # noqa: E402
from botocore.exceptions import ClientError  # noqa: E402

from stage import Rows, Stage, free_port, listens  # noqa: E402

HOME_REGION, WEB_REGION, DOWN_REGION = "eu-central-1", "eu-west-1", "us-west-2"
ROLE = "arn:aws:iam::123456789012:role/agent"
READ_AND_WRITE = 'methods = ["GET", "HEAD", "PUT", "POST"]\n'
HOSTS = {  # host: (moto, credential, more of its route)
    f"sts.{HOME_REGION}.amazonaws.com": ("strict", "user", ""),
    "sts.amazonaws.com": ("strict", "user", ""),
    f"s3.{HOME_REGION}.amazonaws.com": ("strict", "role", ""),
    f"reports.s3.{HOME_REGION}.amazonaws.com": ("strict", "role", READ_AND_WRITE),
    "reports.s3.amazonaws.com": ("strict", "role", READ_AND_WRITE),
    f"secretsmanager.{HOME_REGION}.amazonaws.com": ("strict", "role", ""),
    f"dynamodb.{HOME_REGION}.amazonaws.com": ("strict", "user", ""),
    f"sqs.{HOME_REGION}.amazonaws.com": ("strict", "wrong", ""),
    f"sqs.{DOWN_REGION}.amazonaws.com": ("strict", "down", ""),
    f"s3.{WEB_REGION}.amazonaws.com": ("lax", "web", ""),
    f"web-bucket.s3.{WEB_REGION}.amazonaws.com": ("lax", "web", READ_AND_WRITE),
    "web-bucket.s3.amazonaws.com": ("lax", "web", READ_AND_WRITE),
    f"sts.{WEB_REGION}.amazonaws.com": ("lax", "web", ""),
}
DUMMY_ID, DUMMY_KEY = "AKIAkeyward000000000", "keyward000000000000000000000000000000000"
BIG = 100 << 20


class AwsStage(Stage):
    def __init__(self) -> None:
        super().__init__("aws")
        self.ports: dict[str, int] = {}
        self.token = f"proxy-{secrets.token_hex(16)}"
        subprocess.run([HERE.parent / "peers/ca.sh", self.dir, *HOSTS], check=True)
        for name, extra in (("strict", {"INITIAL_NO_AUTH_ACTION_COUNT": "7"}), ("lax", {})):
            port = self.ports[name] = free_port()
            self.start(name, [BIN / "python", BIN / "moto_server", "-H", "127.0.0.1", "-p", port],
                       {"PATH": os.environ["PATH"], "HOME": str(self.dir), **extra}, listens(port))

    def direct(self, service: str, moto: str = "strict", keys: tuple = ("x", "y"), region: str = HOME_REGION):
        return boto3.client(service, region_name=region, endpoint_url=f"http://127.0.0.1:{self.ports[moto]}",
                            aws_access_key_id=keys[0], aws_secret_access_key=keys[1],
                            config=Config(retries={"total_max_attempts": 1}))

    def furnish(self) -> None:
        """The seven calls that moto takes unsigned."""
        iam = self.direct("iam")
        iam.create_user(UserName="keyward")
        allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        iam.put_user_policy(UserName="keyward", PolicyName="all", PolicyDocument=json.dumps(allow))
        key = iam.create_access_key(UserName="keyward")["AccessKey"]
        self.id, self.key = key["AccessKeyId"], key["SecretAccessKey"]
        trust = {"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "arn:aws:iam::123456789012:user/keyward"}}]}
        iam.create_role(RoleName="agent", AssumeRolePolicyDocument=json.dumps(trust))
        iam.put_role_policy(RoleName="agent", PolicyName="all", PolicyDocument=json.dumps(allow))
        s3 = self.direct("s3")
        s3.create_bucket(Bucket="reports", CreateBucketConfiguration={"LocationConstraint": HOME_REGION})
        self.direct("sts").get_caller_identity()
        self.direct("s3", "lax", region=WEB_REGION).create_bucket(
            Bucket="web-bucket", CreateBucketConfiguration={"LocationConstraint": WEB_REGION})
        for name, text in (("id", self.id), ("key", self.key), ("wrong", "w" * 40), ("token", self.token),
                           ("web-token", "header.payload.signature")):
            self.secret(name, text)
        (self.dir / "policy.json").write_text(json.dumps(allow, indent=2))
        (self.dir / "policy.json").chmod(0o600)

    def start_front(self) -> None:
        """nginx: ends TLS, passes everything as it came, and writes down what signed it."""
        self.front = {name: free_port() for name in self.ports}
        servers = "".join(f"""
    server {{
        listen 127.0.0.1:{self.front[name]} ssl;
        ssl_certificate {self.dir}/server.pem;
        ssl_certificate_key {self.dir}/server.key;
        location / {{ proxy_pass http://127.0.0.1:{port}; }}
    }}""" for name, port in self.ports.items())
        (self.dir / "nginx.conf").write_text(f"""
daemon off; worker_processes 1; pid {self.dir}/nginx.pid; error_log {self.dir}/nginx-error.log;
events {{ worker_connections 256; }}
http {{
    log_format seen escape=json '{{"host":"$http_host","request":"$request","status":$status,'
        '"authorization":"$http_authorization","token":"$http_x_amz_security_token",'
        '"payload":"$http_x_amz_content_sha256"}}';
    access_log {self.dir}/seen.jsonl seen;
    client_max_body_size 0; proxy_request_buffering off; proxy_buffering off; proxy_http_version 1.1;
    proxy_set_header Host $http_host; proxy_set_header Connection ""; proxy_read_timeout 120s;
    client_body_temp_path {self.dir}/b; proxy_temp_path {self.dir}/p; fastcgi_temp_path {self.dir}/f;
    uwsgi_temp_path {self.dir}/u; scgi_temp_path {self.dir}/s;{servers}
}}""")
        nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
        self.start("nginx", [nginx, "-c", self.dir / "nginx.conf", "-p", self.dir], {"PATH": os.environ["PATH"]},
                   listens(self.front["lax"]))

    def start_keyward(self, binary: str) -> None:
        self.proxy, self.admin = free_port(), free_port()
        targets = ", ".join(f'"{host}:443" = "127.0.0.1:{self.front[moto]}"' for host, (moto, _, _) in HOSTS.items())
        targets += f', "sts.{DOWN_REGION}.amazonaws.com:443" = "127.0.0.1:{free_port()}"'
        keys = 'source = { static = { access-key-id = { file = "id" }, secret-access-key = { file = "%s" } } }'
        text = f"""
[proxy]
listen = ["127.0.0.1:{self.proxy}"]
[admin]
listen = "127.0.0.1:{self.admin}"
[ca]
dir = "ca"
[audit]
file = "audit.jsonl"
[upstream]
trust = ["ca.pem"]
connect-to = {{ {targets} }}
[agent.tester]
token = {{ file = "token" }}
[credential.user.aws]
{keys % "key"}
region = "{HOME_REGION}"
[credential.role.aws]
{keys % "key"}
role-arn = "{ROLE}"
region = "{HOME_REGION}"
session-policy = "policy.json"
tags = {{ agent = "{{agent}}" }}
[credential.wrong.aws]
{keys % "wrong"}
role-arn = "{ROLE}"
region = "{HOME_REGION}"
[credential.down.aws]
{keys % "key"}
role-arn = "{ROLE}"
region = "{DOWN_REGION}"
[credential.web.aws]
source = {{ web-identity = {{ file = "web-token" }} }}
role-arn = "arn:aws:iam::123456789012:role/web"
region = "{WEB_REGION}"
"""
        for host, (_, credential, more) in HOSTS.items():
            # boto3 presigns for S3's global name: the bucket's region stands in the file.
            region = HOME_REGION if credential == "role" else WEB_REGION
            signs = f'{{ sigv4 = {{ region = "{region}" }} }}' if host.endswith(".s3.amazonaws.com") else '"sigv4"'
            text += f'[[route]]\nhosts = ["{host}"]\ncredential = "{credential}"\ninject = {signs}\n{more}'
        (self.dir / "keyward.toml").write_text(text)
        ready = lambda: urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=1).status == 200  # noqa: E731
        self.keyward = self.start("keyward", [binary, "serve", "-c", "keyward.toml"],
                                  {"PATH": os.environ["PATH"], "HOME": str(self.dir), "RUST_LOG": "trace"}, ready)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.proxy}/ca.pem", timeout=5) as answer:
            (self.dir / "agents-ca.pem").write_bytes(answer.read())

    def peak(self) -> int:
        """The most memory that keyward ever held, in MiB."""
        status = Path(f"/proc/{self.keyward.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024

    def ask(self, *words: object) -> subprocess.CompletedProcess:
        """A client that has placeholders."""
        proxy = f"http://tester:{self.token}@127.0.0.1:{self.proxy}"
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(self.dir / "home"), "HTTPS_PROXY": proxy, "HTTP_PROXY": proxy,
            "AWS_CA_BUNDLE": str(self.dir / "agents-ca.pem"), "AWS_ACCESS_KEY_ID": DUMMY_ID,
            "AWS_SECRET_ACCESS_KEY": DUMMY_KEY, "AWS_SESSION_TOKEN": "keyward-0000000000",
            "AWS_DEFAULT_REGION": HOME_REGION, "AWS_EC2_METADATA_DISABLED": "true", "AWS_PAGER": "",
            "PYTHONDONTWRITEBYTECODE": "1"}
        return self.client(*words, environment=environment)


def main() -> None:
    binary = os.environ.get("KEYWARD")
    if not (binary and Path(binary).exists()):
        sys.exit("aws_run.py: set KEYWARD to the keyward binary")
    stage, row, reached = AwsStage(), Rows(), b""
    (stage.dir / "home").mkdir()

    try:
        stage.furnish()
        for name, keys in (("moto refuses a placeholder", (DUMMY_ID, DUMMY_KEY)),
                           ("moto refuses another signature", (stage.id, "w" * 40))):
            try:
                stage.direct("sts", keys=keys).get_caller_identity()
                row(name, False, "it was answered")
            except ClientError as error:
                row(name, True, error.response["Error"]["Code"])
        stage.start_front()
        stage.start_keyward(str(Path(binary).resolve()))

        done = stage.ask(BIN / "python", HERE / "aws_boto3.py")
        reached += done.stdout + done.stderr
        for line in done.stdout.decode().splitlines():
            step = json.loads(line)
            row(f"boto3: {step['name']}", step["ok"], step["detail"])
        row("boto3 came to its end", done.returncode == 0, done.stderr.decode()[-300:])

        aws = [BIN / "python", BIN / "aws"]
        big = stage.dir / "home/big"
        with big.open("wb") as out:
            for _ in range(100):
                out.write(os.urandom(1 << 20))
        before = stage.peak()
        for name, words in (("sts get-caller-identity", ["sts", "get-caller-identity"]),
                            ("s3 cp of 100 MiB up", ["s3", "cp", "big", "s3://reports/deep/big", "--no-progress"]),
                            ("s3 ls", ["s3", "ls", "s3://reports/deep/"]),
                            ("s3 cp of 100 MiB down", ["s3", "cp", "s3://reports/deep/big", "back", "--no-progress"])):
            begun = time.monotonic()
            done = stage.ask(*aws, *words)
            reached += done.stdout + done.stderr
            text = (done.stdout + done.stderr).decode().replace("\n", " ")
            row(f"aws {name}", done.returncode == 0, f"{time.monotonic() - begun:.1f} s {text}")
        back = stage.dir / "home/back"
        row("the 100 MiB are the same", back.exists() and back.read_bytes() == big.read_bytes(), "")
        grown = stage.peak() - before
        # Ten parts of 8 MiB are under way at a time: held whole they would take 80 MiB, and the body 100.
        row("memory does not grow with the body", grown < 72, f"VmHWM {before} MiB before, {grown} MiB more after")

        seen = [json.loads(line) for line in (stage.dir / "seen.jsonl").read_text().splitlines()]
        text = json.dumps(seen)
        row("no placeholder went up", DUMMY_ID not in text and "keyward-0000" not in text, f"{len(seen)} requests")
        row("nor did the proxy's token", stage.token not in text, "")
        payloads = {one["payload"] for one in seen if one["payload"].startswith("STREAMING")}
        row("chunked uploads were among them", bool(payloads), ", ".join(payloads))
        assumed = {token for one in seen if (token := one["token"])}
        logs = (stage.dir / "keyward.log").read_bytes() + (stage.dir / "audit.jsonl").read_bytes()
        hidden = [stage.key, *assumed]
        row("no secret reached a client", not any(s.encode() in reached for s in hidden), f"{len(reached)} bytes, {len(hidden)} secrets")
        row("no secret is in log or audit trail", not any(s.encode() in logs for s in hidden), f"{len(logs)} bytes, log at trace")
        issues = [json.loads(line) for line in (stage.dir / "audit.jsonl").read_text().splitlines() if '"event":"issue"' in line]
        kinds = {(one["credential"], one["provider"], one["outcome"], one.get("word")) for one in issues}
        wanted = {("user", "aws", "issued", None), ("role", "aws", "issued", None), ("web", "aws", "issued", None),
                  ("wrong", "aws", "failed", "broker-refused"), ("down", "aws", "failed", "broker-unavailable")}
        row("each issue is in the audit trail", wanted <= kinds, str(sorted(wanted - kinds)))
    finally:
        row.close(stage)
    row.exit()


main()
