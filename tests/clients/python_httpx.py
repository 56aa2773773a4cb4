#!/usr/bin/env python3
"""httpx: `python_httpx.py URL [h1|h2]`; OpenAI's, Anthropic's and Google's libraries stand on it."""

import sys

import httpx
from client import BEARER, Seen, expect, first_json, http_checks, run

H2 = sys.argv[2:] == ["h2"]


def body(url: str, seen: Seen) -> str:
    with httpx.Client(http2=H2, headers=BEARER, timeout=20) as client:
        for method, target, posted, holds in http_checks(url):
            answer = client.request(method, target, json=posted)
            seen.add(answer.headers, answer.content)
            expect(answer.status_code == 200, f"{target}: {answer.status_code} {answer.text[:100]}")
            expect(holds(first_json(answer.text)), f"{target}: not the answer that was asked for")
            expect(answer.http_version == ("HTTP/2" if H2 else "HTTP/1.1"), answer.http_version)
    return f"6 requests over {answer.http_version}"


run(f"httpx {'h2' if H2 else 'h1'}", httpx.__version__, body)
