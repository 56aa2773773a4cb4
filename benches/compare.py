#!/usr/bin/env python3
"""Compares keyward with other proxies: interleaved rounds on loopback, the price taken from each proxy's own CPU time.

    tests/peers/install.sh --bench                        once
    KEYWARD=target/release/keyward benches/compare.py     every figure, every proxy that is installed
    … --modes h1,new --proxies keyward,nginx,bare --rounds 5 --seconds 3
    … --write docs/performance-figures.md                 the table, with the machine and the date

One fast TLS upstream (200 for the real key alone, else 401), one load generator; every proxy terminates TLS, sets the
header and goes on over TLS. Read ratios, not figures: rounds interleave, so that a busy machine strikes all alike, and
"per CPU-s" divides by the CPU seconds of the proxy process and its children, not by the wall.
"""

import argparse
import json
import os
import platform
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("KEYWARD_CACHE") or Path.home() / ".cache/keyward")
BIN = CACHE / "bench-target/release"
KEY = f"kw-bench-{secrets.token_hex(20)}"
REAL, PLACEHOLDER = f"Bearer {KEY}", "Bearer placeholder"
TOKEN = secrets.token_hex(16)
PROXIES = ["direct", "keyward", "nginx", "envoy", "bare", "hudsucker", "squid", "mitmproxy"]
# Mode: options of the load generator.
MODES = {
    "h1": ["connections=32"],
    "latency": ["connections=1"],
    "h2": ["connections=4", "streams=16"],
    "new": ["connections=8"],
    "download": ["connections=4"],
    "sse": ["connections=16"],
    "contact": [],
    "idle": ["connections=1000"],
}
# What each mode is judged by: member of the generator's answer, heading, whether more is better.
FIGURES = {
    "h1": [("per_s", "req/s", True), ("per_cpu_s", "req per CPU-s", True), ("p50_ms", "p50 ms", False), ("p99_ms", "p99 ms", False)],
    "latency": [("p50_ms", "p50 ms, 1 conn", False), ("p99_ms", "p99 ms, 1 conn", False)],
    "h2": [("per_s", "h2 req/s", True), ("per_cpu_s", "h2 req per CPU-s", True), ("p99_ms", "h2 p99 ms", False)],
    "new": [("per_cpu_s", "new conn per CPU-s", True), ("p50_ms", "new conn p50 ms", False)],
    "download": [("mb_per_s", "MB/s", True), ("mb_per_cpu_s", "MB per CPU-s", True)],
    "sse": [("p50_ms", "SSE age p50 ms", False), ("p99_ms", "SSE age p99 ms", False)],
    "contact": [("first_ms", "first contact ms", False), ("second_ms", "second contact ms", False)],
    "idle": [("start_mib", "MiB at start", False), ("full_mib", "MiB, 1,000 idle", False), ("kib_each", "KiB per idle conn", False)],
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Proxy:
    """One proxy under test: how it is started, and how the generator reaches it."""

    def __init__(self, name: str, bench: "Bench") -> None:
        self.name, self.bench = name, bench
        self.port = free_port()
        self.dir = bench.dir / name
        self.process: subprocess.Popen | None = None
        self.via, self.authority, self.ca = "proxy", f"localhost:{bench.upstream_port}", bench.dir / "ca.pem"
        self.extra: list[str] = []

    def start(self) -> None:
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir()
        words = getattr(self, f"words_{self.name}")()
        if words is None:
            return
        with (self.dir / "output.log").open("w") as log:
            self.process = subprocess.Popen([str(w) for w in words], stdin=subprocess.PIPE, stdout=log, stderr=log,
                                            env={"PATH": os.environ["PATH"] + ":/usr/sbin", "HOME": str(self.dir)})
        for _ in range(600):
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended: {(self.dir / 'output.log').read_text()[-500:]}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise RuntimeError(f"{self.name} does not listen after a minute")
        after = getattr(self, f"after_{self.name}", None)
        if after:
            after()

    def stop(self) -> None:
        if not self.process:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def load(self, mode: str, seconds: float) -> dict:
        at = self.port if self.process else self.bench.upstream_port
        words = [BIN / "load", "h1" if mode == "latency" else mode, f"addr=127.0.0.1:{at}", f"via={self.via}",
                 f"authority={self.authority}", f"ca={self.ca}", f"millis={int(seconds * 1000)}",
                 f"pid={self.process.pid if self.process else self.bench.upstream.pid}",
                 f"warm={3000 if self.name == 'mitmproxy' else 500}",  # its first 32 answers alone take a second
                 f"authorization={PLACEHOLDER if self.process else REAL}", *MODES[mode], *self.extra]
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds + 60)
        if done.returncode:
            return {"errors": 1, "error": done.stderr.strip()[-200:]}
        answer = json.loads(done.stdout)
        if answer.get("count") == 0 and not answer["errors"]:  # starved, which is no figure
            answer |= {"errors": 1, "error": "no answer within the window"}
        return answer

    def words_direct(self) -> None:
        self.via = "none"

    def words_keyward(self) -> list:
        admin = free_port()
        self.admin, self.authority, self.extra = admin, "api.test:443", [f"token={TOKEN}"]
        (self.dir / "token").write_text(TOKEN)
        (self.dir / "key").write_text(KEY)
        self.config = self.dir / "keyward.toml"
        self.config.write_text(f"""
[proxy]
listen = ["127.0.0.1:{self.port}"]
[admin]
listen = "127.0.0.1:{admin}"
[ca]
dir = "{self.dir}/ca"
[audit]
file = "{self.dir}/audit.jsonl"
[upstream]
trust = ["{self.bench.dir}/ca.pem"]
connect-to = {{ "api.test:443" = "127.0.0.1:{self.bench.upstream_port}" }}
[agent.bench]
token = {{ file = "{self.dir}/token" }}
[credential.real.static]
value = {{ file = "{self.dir}/key" }}
[[route]]
hosts = ["api.test"]
credential = "real"
inject = "bearer"
""")
        return [self.bench.keyward, "serve", "-c", self.config]

    def after_keyward(self) -> None:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=1)
                break
            except OSError:
                time.sleep(0.1)
        asked = [self.bench.keyward, "ca", "path", "-c", self.config]
        self.ca = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()

    def words_nginx(self) -> list:
        # A reverse proxy, not a CONNECT proxy: the client dials it as if it were the server. One worker a core.
        self.via = "none"
        config = self.dir / "nginx.conf"
        config.write_text(f"""
daemon off; user root; pid {self.dir}/nginx.pid; worker_processes auto; error_log {self.dir}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {self.dir}/b; proxy_temp_path {self.dir}/p; fastcgi_temp_path {self.dir}/f;
  uwsgi_temp_path {self.dir}/u; scgi_temp_path {self.dir}/s;
  keepalive_requests 100000000;
  upstream up {{ server 127.0.0.1:{self.bench.upstream_port}; keepalive 128; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{self.port} ssl http2 backlog=4096;
    ssl_certificate {self.bench.dir}/server.pem; ssl_certificate_key {self.bench.dir}/server.key;
    ssl_protocols TLSv1.3;
    location / {{
      proxy_pass https://up;
      proxy_http_version 1.1; proxy_set_header connection ""; proxy_set_header host localhost;
      proxy_set_header authorization "{REAL}";
      proxy_ssl_protocols TLSv1.3; proxy_ssl_verify on; proxy_ssl_name localhost; proxy_ssl_server_name on;
      proxy_ssl_trusted_certificate {self.bench.dir}/ca.pem; proxy_ssl_session_reuse on;
      proxy_buffering on; proxy_max_temp_file_size 0;
    }}
    location /sse {{
      proxy_pass https://up; proxy_buffering off;
      proxy_http_version 1.1; proxy_set_header connection ""; proxy_set_header host localhost;
      proxy_set_header authorization "{REAL}";
      proxy_ssl_protocols TLSv1.3; proxy_ssl_verify on; proxy_ssl_name localhost; proxy_ssl_server_name on;
      proxy_ssl_trusted_certificate {self.bench.dir}/ca.pem;
    }}
  }}
}}
""")
        return ["nginx", "-e", self.dir / "error.log", "-c", config]

    def words_envoy(self) -> list:
        # A reverse proxy like nginx: it makes no leaves of its own for a CONNECT. One worker a core.
        self.via = "none"
        files = {name: {"filename": f"{self.bench.dir}/{name}"} for name in ("server.pem", "server.key", "ca.pem")}
        v3 = "type.googleapis.com/envoy.extensions"
        versions = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}
        theirs = {"@type": f"{v3}.transport_sockets.tls.v3.DownstreamTlsContext", "common_tls_context": {
            "tls_params": versions, "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificates": [{"certificate_chain": files["server.pem"], "private_key": files["server.key"]}]}}
        ours = {"@type": f"{v3}.transport_sockets.tls.v3.UpstreamTlsContext", "sni": "localhost", "common_tls_context": {
            "tls_params": versions, "validation_context": {"trusted_ca": files["ca.pem"], "match_typed_subject_alt_names": [
                {"san_type": "DNS", "matcher": {"exact": "localhost"}}]}}}
        # It speaks to the upstream what the upstream chooses, as keyward does.
        protocols = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{v3}.upstreams.http.v3.HttpProtocolOptions", "auto_config": {"http_protocol_options": {}, "http2_protocol_options": {}}}}
        manager = {"@type": f"{v3}.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "bench",
                   "route_config": {"virtual_hosts": [{
                       "name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {
                           "cluster": "up", "timeout": "0s", "host_rewrite_literal": "localhost"}}],
                       "request_headers_to_add": [{"header": {"key": "authorization", "value": REAL},
                                                   "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]}]},
                   "http_filters": [{"name": "envoy.filters.http.router",
                                     "typed_config": {"@type": f"{v3}.filters.http.router.v3.Router"}}]}
        at = {"socket_address": {"address": "127.0.0.1", "port_value": self.port}}
        to = {"socket_address": {"address": "127.0.0.1", "port_value": self.bench.upstream_port}}
        config = self.dir / "envoy.json"
        config.write_text(json.dumps({"static_resources": {
            "listeners": [{"name": "in", "address": at, "filter_chains": [{
                "transport_socket": {"name": "tls", "typed_config": theirs},
                "filters": [{"name": "http", "typed_config": manager}]}]}],
            "clusters": [{"name": "up", "type": "STATIC", "typed_extension_protocol_options": protocols,
                          "transport_socket": {"name": "tls", "typed_config": ours},
                          "load_assignment": {"cluster_name": "up", "endpoints": [{"lb_endpoints": [
                              {"endpoint": {"address": to}}]}]}}]}}))
        return [CACHE / "bench/bin/envoy", "-c", config, "--concurrency", os.cpu_count(), "--use-dynamic-base-id", "--log-level", "warning"]

    def words_bare(self) -> list:
        return [BIN / "bare", f"127.0.0.1:{self.port}", self.bench.dir / "server.pem", self.bench.dir / "server.key",
                self.ca, f"127.0.0.1:{self.bench.upstream_port}", "localhost", REAL]

    def words_hudsucker(self) -> list:
        return [BIN / "hudsucker-peer", f"127.0.0.1:{self.port}", self.ca, self.bench.dir / "ca.key", REAL]

    def words_mitmproxy(self) -> list:
        (self.dir / "conf").mkdir()
        both = (self.bench.dir / "ca.key").read_text() + (self.bench.dir / "ca.pem").read_text()
        (self.dir / "conf/mitmproxy-ca.pem").write_text(both)
        plan = {"localhost": {"port": self.bench.upstream_port, "header": ["authorization", REAL]}}
        (self.dir / "plan.json").write_text(json.dumps(plan))
        words = [CACHE / "bench/bin/mitmdump", "-q", "--listen-host", "127.0.0.1", "-p", self.port, "-s", HERE / "peers/mitmproxy_inject.py"]
        for setting in (f"confdir={self.dir}/conf", f"plan={self.dir}/plan.json", "stream_large_bodies=32k",
                        f"ssl_verify_upstream_trusted_ca={self.ca}", "connection_strategy=lazy"):
            words += ["--set", setting]
        return words

    def words_squid(self) -> list:
        (self.dir / "bump.pem").write_text((self.bench.dir / "ca.pem").read_text() + (self.bench.dir / "ca.key").read_text())
        certgen = "/usr/lib/squid/security_file_certgen"
        subprocess.run([certgen, "-c", "-s", self.dir / "certs", "-M", "4MB"], check=True, capture_output=True)
        config = self.dir / "squid.conf"
        config.write_text(f"""
http_port 127.0.0.1:{self.port} ssl-bump generate-host-certificates=on dynamic_cert_mem_cache_size=4MB tls-cert={self.dir}/bump.pem
sslcrtd_program {certgen} -s {self.dir}/certs -M 4MB
sslcrtd_children 2
tls_outgoing_options cafile={self.dir}/ca.pem
acl step1 at_step SslBump1
ssl_bump peek step1
ssl_bump bump all
http_access allow all
cache deny all
cache_mem 8 MB
access_log none
cache_log {self.dir}/cache.log
cache_store_log none
pid_filename {self.dir}/squid.pid
coredump_dir {self.dir}
cache_effective_user proxy
memory_cache_shared off
max_filedescriptors 16384
pipeline_prefetch 0
shutdown_lifetime 0 seconds
request_header_access Authorization deny all
request_header_add Authorization "{REAL}" all
visible_hostname localhost
""")
        shutil.copy(self.ca, self.dir / "ca.pem")
        if os.geteuid() == 0:  # squid refuses to run as root and drops to this user
            self.bench.dir.chmod(0o711)
            for path in (self.dir, *self.dir.rglob("*")):
                shutil.chown(path, "proxy", "proxy")
        return ["squid", "-N", "-n", f"keyward{os.getpid()}", "-f", config]


class Bench:
    """The temporary folder with its CA, and the one upstream."""

    def __init__(self, http1: bool) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="keyward-bench-"))
        self.keyward = os.environ.get("KEYWARD") and str(Path(os.environ["KEYWARD"]).resolve())
        subprocess.run([HERE.parent / "tests/peers/ca.sh", self.dir], check=True)
        words = [BIN / "upstream", "127.0.0.1:0", self.dir / "server.pem", self.dir / "server.key", REAL]
        words += ["http1"] if http1 else []
        self.upstream = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.upstream_port = int(self.upstream.stdout.readline())

    def end(self) -> None:
        self.upstream.stdin.close()
        self.upstream.wait(5)
        shutil.rmtree(self.dir, ignore_errors=True)


def available(bench: Bench, wanted: list[str]) -> list[str]:
    path = os.environ["PATH"] + ":/usr/sbin"
    needs: dict[str, Callable[[], bool]] = {
        "keyward": lambda: bool(bench.keyward and Path(bench.keyward).exists()),
        "nginx": lambda: shutil.which("nginx", path=path) is not None,
        "squid": lambda: shutil.which("squid", path=path) is not None and Path("/usr/lib/squid/security_file_certgen").exists(),
        "envoy": lambda: (CACHE / "bench/bin/envoy").exists(),
        "mitmproxy": lambda: (CACHE / "bench/bin/mitmdump").exists(),
    }
    missing = [name for name in wanted if name in needs and not needs[name]()]
    for name in missing:
        print(f"compare.py: {name} is not here and is left out", file=sys.stderr)
    return [name for name in wanted if name not in missing]


def unfit(name: str, mode: str) -> bool:
    """Figures that a proxy cannot have."""
    return (name, mode) in {("squid", "h2"), ("direct", "idle"), ("direct", "contact")}


def measure(bench: Bench, names: list[str], modes: list[str], rounds: int, seconds: float, budget: float) -> dict:
    """Rounds outside, modes next, proxies inside: neighbours in time are the ones to be compared.

    Ends between two samples when the budget is used up; what was measured until then counts.
    """
    end = time.monotonic() + budget
    samples: dict[tuple[str, str], list[dict]] = defaultdict(list)
    steady = [mode for mode in modes if mode not in ("contact", "idle")]
    proxies = {}
    try:
        for name in names:
            proxies[name] = Proxy(name, bench)
            proxies[name].start()
        for number in range(rounds):
            for mode in modes:
                for name in names if number % 2 == 0 else reversed(names):
                    if unfit(name, mode):
                        continue
                    if time.monotonic() > end:
                        print(f"compare.py: {budget:g} s are used up in round {number + 1}", file=sys.stderr)
                        return samples
                    proxy = proxies[name]
                    if mode not in steady:
                        proxy.stop()  # first contacts and idle memory are those of a fresh process
                        proxy.start()
                    try:
                        sample = proxy.load(mode, seconds)
                    except subprocess.TimeoutExpired:
                        sample = {"errors": 1, "error": "the generator was stopped after a minute"}
                    note = f"  ERRORS {sample['errors']}: {sample.get('error')}" if sample["errors"] else ""
                    shown = "  ".join(f"{title} {sample.get(member, '-')}" for member, title, _ in FIGURES[mode])
                    print(f"round {number + 1} {mode:9} {name:10} {shown}{note}", flush=True)
                    samples[name, mode].append(sample)
    finally:
        for proxy in proxies.values():
            proxy.stop()
    return samples


def median(samples: list[dict], member: str) -> float | None:
    values = [sample[member] for sample in samples if not sample["errors"] and member in sample]
    return statistics.median(values) if values else None


def shown(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(samples: dict, names: list[str], modes: list[str]) -> str:
    lines = []
    for mode in modes:
        figures = [figure for figure in FIGURES[mode]]
        judge = next((figure for figure in figures if "cpu" in figure[0]), None)
        heads = ["", *(title for _, title, _ in figures)] + (["÷ nginx", "÷ bare"] if judge else [])
        lines += [f"\n**{mode}** ({', '.join(MODES[mode]) or 'one connection, a fresh process'})\n",
                  "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        for name in names:
            if unfit(name, mode) or (name, mode) not in samples:
                continue
            # Without a proxy there is no proxy's CPU time: the generator read the upstream's.
            cells = [None if name == "direct" and "cpu" in member else median(samples[name, mode], member) for member, _, _ in figures]
            row = [name, *map(shown, cells)]
            if judge:
                mine = None if name == "direct" else median(samples[name, mode], judge[0])
                for other in ("nginx", "bare"):
                    theirs = median(samples.get((other, mode), []), judge[0])
                    row.append(f"{mine / theirs:.2f}" if mine and theirs else "–")
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def report(text: str, rounds: int, seconds: float) -> str:
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    return f"""# Performance: the last figures

Made by `benches/compare.py` on {date.today()}: medians of {rounds} interleaved rounds of {seconds:g} s, on {os.cpu_count()} cores
({model}, Linux {platform.release()}), load generator and upstream on the same cores. "per CPU-s" is for each CPU second
of the proxy process and its children. 1 KB of JSON over TLS 1.3 on both sides, upstream connections pooled, the key set
by the proxy and checked by the upstream. nginx is a reverse proxy (no CONNECT, no minting); bare is hyper with one
leaf, no policy, no scrubbing, no audit. Under h2 nginx speaks HTTP/1.1 upstream, the others HTTP/2. keyward runs with everything on, audit durability "os".
{text}
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--proxies", default=",".join(PROXIES))
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--budget", type=float, default=1200, help="seconds in all")
    parser.add_argument("--upstream-http1", action="store_true", help="the upstream speaks HTTP/1.1 alone, as nginx does to its own")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    if not (BIN / "load").exists():
        sys.exit("compare.py: the load generator is missing: run tests/peers/install.sh --bench")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` ends the proxies
    bench = Bench(options.upstream_http1)
    try:
        names = available(bench, options.proxies.split(","))
        modes = options.modes.split(",")
        samples = measure(bench, names, modes, options.rounds, options.seconds, options.budget)
    finally:
        bench.end()
    text = table(samples, names, modes)
    print(text)
    if options.write:
        options.write.parent.mkdir(parents=True, exist_ok=True)
        options.write.write_text(report(text, options.rounds, options.seconds))
    sys.exit(1 if any(all(s["errors"] for s in each) for each in samples.values()) else 0)


if __name__ == "__main__":
    main()
