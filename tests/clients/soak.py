#!/usr/bin/env python3
"""Load with a question after it: no error, no file descriptor left open, memory flat, and an audit chain that holds.

    KEYWARD=target/debug/keyward tests/clients/soak.py [REQUESTS]

Over HTTP/1.1 and over HTTP/2 in turn: REQUESTS (2000) one after another on one connection, then as many 50 at a time,
of mixed sizes up and down. Each answer is checked, and searched for the key. Runs under the Python of tests/peers:
`~/.cache/keyward/test/bin/python tests/clients/soak.py`.
"""

import asyncio
import json
import os
import random
import shutil
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import run

SIZES = [0, 1, 100, 1000, 16_384, 65_537, 300_000]
PARALLEL = 50


def state(pid: int) -> tuple[int, float]:
    """Open descriptors and resident MiB."""
    resident = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return len(os.listdir(f"/proc/{pid}/fd")), int(resident.split()[1]) / 1024


async def one(client: httpx.AsyncClient, key: str, number: int) -> str | None:
    size = SIZES[number % len(SIZES)]
    if number % 3 == 0:
        answer, wanted = await client.post("/post", content=b"x" * size), b'"data": "' + b"x" * size + b'"'
    elif number % 3 == 1:
        answer, wanted = await client.get(f"/static/{size}.bin"), None
        if len(answer.content) != size:
            return f"{size} bytes are {len(answer.content)}"
    else:
        answer, wanted = await client.get(f"/anything?n={number}"), str(number).encode()
    if answer.status_code != 200:
        return f"{answer.request.url}: {answer.status_code} {answer.headers.get('keyward-refusal', '')}"
    if wanted is not None and wanted not in answer.content:
        return f"{answer.request.url}: not the answer that was asked for"
    if key.encode() in answer.content or key in str(answer.headers):
        return f"{answer.request.url}: the real key reached the client"
    return None


async def lap(proxy: str, ca: Path, key: str, http2: bool, requests: int, parallel: int) -> list[str]:
    context = ssl.create_default_context(cafile=str(ca))
    limits = httpx.Limits(max_connections=parallel, max_keepalive_connections=parallel)
    faults: list[str] = []
    order = iter(random.Random(7).sample(range(requests), requests))
    async with httpx.AsyncClient(base_url="https://api.test", http1=not http2, http2=http2, verify=context, proxy=proxy,
                                 limits=limits, timeout=60, trust_env=False) as client:
        async def worker() -> None:
            for number in order:
                try:
                    fault = await one(client, key, number)
                except httpx.HTTPError as error:
                    fault = f"{type(error).__name__}: {error}"
                if fault:
                    faults.append(fault)

        await asyncio.gather(*(worker() for _ in range(parallel)))
    return faults


def main() -> None:
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    binary = str(Path(os.environ.get("KEYWARD") or sys.exit("soak.py: set KEYWARD to the keyward binary")).resolve())
    stage, failed = run.Stage(), False
    try:
        stage.start_peers()
        for size in SIZES:
            (stage.dir / f"static/{size}.bin").write_bytes(random.Random(size).randbytes(size))
        address, ca = stage.start_keyward(binary)
        pid, proxy = stage.children[-1].pid, f"http://tester:{stage.token}@{address}"
        asyncio.run(lap(proxy, ca, stage.key, False, 20, 1))
        time.sleep(1)
        base, resident = state(pid)
        print(f"warm: {base} descriptors, {resident:.1f} MiB", flush=True)
        for http2 in (False, True):
            for parallel in (1, PARALLEL):
                begun = time.monotonic()
                faults = asyncio.run(lap(proxy, ca, stage.key, http2, requests, parallel))
                took = time.monotonic() - begun
                for _ in range(40):  # connections close behind the client's back
                    if (now := state(pid))[0] <= base + 2:
                        break
                    time.sleep(0.25)
                failed |= bool(faults) or now[0] > base + 2
                print(f"{'h2' if http2 else 'h1'} × {parallel:2}: {requests} requests in {took:.1f} s, {len(faults)} faults, "
                      f"{now[0]} descriptors, {now[1]:.1f} MiB {faults[:3] or ''}", flush=True)
    finally:
        stage.end()
    verified = subprocess.run([binary, "audit", "verify", stage.dir / "audit.jsonl"], capture_output=True, text=True)
    failed |= verified.returncode != 0
    records = [json.loads(line) for line in (stage.dir / "audit.jsonl").read_text().splitlines()]
    print(f"audit verify exits {verified.returncode}: {(verified.stdout + verified.stderr).strip()[:300]}")
    print(f"records: {sum(r['event'] == 'intent' for r in records)} intents, {sum(r['event'] == 'request' for r in records)} outcomes")
    shutil.rmtree(stage.dir, ignore_errors=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
