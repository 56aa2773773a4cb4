#!/usr/bin/env python3
"""urllib of the standard library: a new connection for each request, no encodings."""

import json
import platform
import urllib.request

from client import BEARER, Seen, expect, first_json, http_checks, run


def body(url: str, seen: Seen) -> str:
    for method, target, posted, holds in http_checks(url):
        if "zip" in target or "brotli" in target:
            continue  # urllib does not decode
        data = json.dumps(posted).encode() if posted else None
        headers = BEARER | ({"Content-Type": "application/json"} if posted else {})
        with urllib.request.urlopen(urllib.request.Request(target, data, headers, method=method), timeout=20) as answer:
            text = answer.read().decode()
            seen.add(answer.headers, text)
        expect(holds(first_json(text)), f"{target}: not the answer that was asked for")
    return "4 requests"


run("urllib", platform.python_version(), body)
