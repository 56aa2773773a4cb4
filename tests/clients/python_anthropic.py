#!/usr/bin/env python3
"""Anthropic's Python library as its users write it: a message, and one streamed."""

import anthropic
from client import KEY, Seen, expect, run


def body(url: str, seen: Seen) -> str:
    own = {} if url == "https://api.anthropic.com" else {"base_url": url, "api_key": KEY}
    client = anthropic.Anthropic(timeout=20, max_retries=0, **own)
    asked = {"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]}
    text = client.messages.create(**asked).content[0].text
    seen.add(text)
    expect(text.startswith("The key is ") and text.endswith("done."), f"message: {text[:60]}")
    with client.messages.stream(**asked) as stream:
        pieces = list(stream.text_stream)
    seen.add("".join(pieces))
    expect("".join(pieces) == text and len(pieces) > 3, f"streamed: {len(pieces)} pieces {''.join(pieces)[:60]}")
    return f"message, streamed in {len(pieces)} pieces"


run("anthropic", anthropic.__version__, body)
