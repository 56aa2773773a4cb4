#!/usr/bin/env python3
"""curl with the key in `x-api-key`, the other common place."""

import subprocess

from client import KEY, Seen, expect, run


def body(url: str, seen: Seen) -> str:
    words = ["curl", "-sS", "-i", "-H", f"x-api-key: {KEY}", f"{url}/x-api-key/models"]
    done = subprocess.run(words, capture_output=True, text=True)
    seen.add(done.stdout, done.stderr)
    expect('"ok":true' in done.stdout, done.stdout[-200:] + done.stderr)
    return "200"


run("curl x-api-key", "", body)
