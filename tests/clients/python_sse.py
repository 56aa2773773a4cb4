#!/usr/bin/env python3
"""A stream of Server-Sent Events through httpx: every event must be here within 0.5 s of its birth, none in a heap."""

import json
import time

import httpx
from client import BEARER, Seen, expect, run


def body(url: str, seen: Seen) -> str:
    ages = []
    with httpx.Client(headers=BEARER, timeout=20) as client:
        with client.stream("GET", f"{url}/events?n=20&ms=50") as answer:
            expect(answer.status_code == 200, f"status {answer.status_code}")
            for line in answer.iter_lines():
                seen.add(line)
                if line.startswith("data: "):
                    ages.append(time.time() - json.loads(line[6:])["born"])
    expect(len(ages) == 20, f"{len(ages)} of 20 events")
    expect(max(ages) < 0.5, f"the oldest event was {max(ages):.2f} s old")
    return f"20 events, the oldest {max(ages) * 1000:.1f} ms old"


run("httpx SSE", httpx.__version__, body)
