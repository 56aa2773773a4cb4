#!/usr/bin/env python3
"""requests, one session: it trusts REQUESTS_CA_BUNDLE and keeps the connection."""

import requests
from client import BEARER, Seen, expect, first_json, http_checks, run


def body(url: str, seen: Seen) -> str:
    with requests.Session() as session:
        for method, target, posted, holds in http_checks(url):
            answer = session.request(method, target, json=posted, headers=BEARER, timeout=20)
            seen.add(answer.headers, answer.content)
            expect(answer.status_code == 200, f"{target}: {answer.status_code} {answer.text[:100]}")
            expect(holds(first_json(answer.text)), f"{target}: not the answer that was asked for")
    return "6 requests, one session"


run("requests", requests.__version__, body)
