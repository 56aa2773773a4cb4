#!/usr/bin/env python3
"""curl: `curl.py URL [--http1.1|--http2]`, options as a user writes them; the big download is compared by size."""

import json
import subprocess
import sys

from client import KEY, POSTED, Seen, expect, first_json, http_checks, run

FLAG = sys.argv[2] if len(sys.argv) > 2 else "--http1.1"
VERSION = subprocess.run(["curl", "--version"], capture_output=True, text=True).stdout.split()[1]


def curl(*words: str) -> bytes:
    done = subprocess.run(["curl", "-sS", FLAG, "-H", f"Authorization: Bearer {KEY}", *words], capture_output=True)
    expect(done.returncode == 0, f"curl exits {done.returncode}: {done.stderr.decode()}")
    return done.stdout


def body(url: str, seen: Seen) -> str:
    for method, target, posted, holds in http_checks(url):
        if "brotli" in target:
            continue  # not every distribution's curl decodes it
        data = ["-H", "Content-Type: application/json", "--data-binary", json.dumps(posted)] if posted else []
        out = curl("-i", "--suppress-connect-headers", "--compressed", "-X", method, *data, target)
        seen.add(out)
        head, _, content = out.partition(b"\r\n\r\n")
        expect(b" 200" in head.split(b"\r\n")[0], f"{target}: {head[:80]!r}")
        expect(holds(first_json(content.decode())), f"{target}: not the answer that was asked for")
    version = curl("-o", "/dev/null", "-w", "%{http_version} %{size_download}", f"{url}/static/100m.bin").decode()
    wanted = "2" if FLAG == "--http2" else "1.1"
    expect(version == f"{wanted} {100 << 20}", f"download: {version}")
    return f"HTTP/{wanted}, {len(json.dumps(POSTED))} bytes posted, 100 MiB down"


run(f"curl {FLAG}", VERSION, body)
