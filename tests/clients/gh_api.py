#!/usr/bin/env python3
"""gh, with the placeholder in GH_TOKEN: a call of the API that is sent back whole."""

import json

from client import Seen, expect, run
from tool import call, version


def body(url: str, seen: Seen) -> str:
    answer = json.loads(call(seen, "gh", "api", "anything/probe", "--method", "POST", "-f", "title=grüße"))
    expect(json.loads(answer["data"]) == {"title": "grüße"}, f"the echo differs: {answer['data']}")
    answer = json.loads(call(seen, "gh", "api", "gzip"))
    expect(answer["gzipped"] is True, "not the answer that was asked for")
    return "2 calls of the API"


run("gh", version("gh", "--version"), body)
