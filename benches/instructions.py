#!/usr/bin/env python3
"""Counts the instructions of one small request inside a proxy, which a busy machine does not change.

    tests/peers/install.sh --bench                              once; and Debian's valgrind
    KEYWARD=target/release/keyward benches/instructions.py      keyward and the bare proxy
    … --proxies keyward --requests 500 --keep /tmp/out          and the profile, for callgrind_annotate

One connection through the proxy of benches/compare.py, one request after the other; callgrind counts after the warm-up.
Its CPU has neither SHA nor AVX-512 instructions, so cryptography is dearer in it than in life: it is shown apart. What
the kernel does is not counted; benches/compare.py has the time of both.
"""

import argparse
import re
import shutil
import socket
import ssl
import subprocess
import sys
from pathlib import Path

from compare import BIN, PLACEHOLDER, TOKEN, Bench, Proxy, available

CRYPTO = re.compile(r"aws_lc|aesni|gcm|sha256|sha512|x25519|mlkem|Keccak|ecp_nistz", re.IGNORECASE)


class Counted(Proxy):
    """A proxy that runs inside callgrind, which counts nothing until it is told to."""

    def __init__(self, name: str, bench: Bench, out: Path) -> None:
        super().__init__(name, bench)
        self.out = out
        bare = getattr(self, f"words_{name}")
        valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
        setattr(self, f"words_{name}", lambda: [*valgrind, *bare()])

    def counting(self, on: bool) -> None:
        subprocess.run(["callgrind_control", "-i", "on" if on else "off", str(self.process.pid)], check=True, stdout=subprocess.DEVNULL)


def connect(proxy: Proxy) -> ssl.SSLSocket:
    """TCP, CONNECT and TLS, as an agent's client makes them."""
    tcp = socket.create_connection(("127.0.0.1", proxy.port), 60)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    words = f"CONNECT {proxy.authority} HTTP/1.1\r\nHost: {proxy.authority}\r\n"
    if proxy.name == "keyward":
        words += f"Proxy-Authorization: Bearer {TOKEN}\r\n"
    tcp.sendall(f"{words}\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += tcp.recv(1) or sys.exit(f"instructions.py: {proxy.name} closed the connection: {head!r}")
    context = ssl.create_default_context(cafile=proxy.ca)
    context.set_alpn_protocols(["http/1.1"])
    return context.wrap_socket(tcp, server_hostname=proxy.authority.rsplit(":", 1)[0])


def ask(stream: ssl.SSLSocket, proxy: Proxy, times: int) -> None:
    """So many requests, each with its whole answer."""
    request = (f"GET /json HTTP/1.1\r\nhost: {proxy.authority.removesuffix(':443')}\r\nauthorization: {PLACEHOLDER}\r\n"
               "user-agent: load\r\naccept: */*\r\n\r\n").encode()
    for _ in range(times):
        stream.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += stream.recv(65536) or sys.exit("instructions.py: the answer broke off")
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            sys.exit(f"instructions.py: {head!r}")
        length = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1])
        while len(body) < length:
            body += stream.recv(65536) or sys.exit("instructions.py: the answer broke off")


def count(name: str, bench: Bench, requests: int, out: Path) -> tuple[int, int]:
    """Instructions a request outside and inside cryptography."""
    proxy = Counted(name, bench, out)
    try:
        proxy.start()
        with connect(proxy) as stream:
            ask(stream, proxy, 50)
            proxy.counting(True)
            ask(stream, proxy, requests)
            proxy.counting(False)
    finally:
        proxy.stop()
    listed = subprocess.run(["callgrind_annotate", "--threshold=100", out], capture_output=True, text=True, check=True).stdout
    sums = [0, 0]
    for line in listed.splitlines():
        found = re.match(r"\s*([\d,]+) \([\s\d.]+%\)\s+\S*:(.*)", line)
        if found and "PROGRAM TOTALS" not in line:
            sums[bool(CRYPTO.search(found[2].split(" [")[0]))] += int(found[1].replace(",", ""))
    return sums[0] // requests, sums[1] // requests


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--proxies", default="keyward,bare")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--keep", type=Path, help="a folder for the profiles")
    options = parser.parse_args()
    if not (BIN / "upstream").exists() or not shutil.which("valgrind"):
        sys.exit("instructions.py: the bench programs or valgrind are missing: run tests/peers/install.sh --bench and apt-get install valgrind")
    bench = Bench(http1=True)
    folder = options.keep or bench.dir
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name in available(bench, options.proxies.split(",")):
            plain, crypto = count(name, bench, options.requests, folder / f"{name}.callgrind")
            print(f"{name:8} {plain:8,} instructions a request, and {crypto:7,} of cryptography", flush=True)
    finally:
        bench.end()


main()
