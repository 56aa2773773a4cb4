#!/usr/bin/env python3
"""Google's google-genai as its users write it: a generated answer, and one streamed."""

from client import KEY, Seen, expect, run
from google import genai


def body(url: str, seen: Seen) -> str:
    own = {} if url == "https://generativelanguage.googleapis.com" else {
        "api_key": KEY, "http_options": genai.types.HttpOptions(base_url=url)}
    client = genai.Client(**own)
    asked = {"model": "gemini-2.0-flash", "contents": "hello"}
    text = client.models.generate_content(**asked).text
    seen.add(text)
    expect(text.startswith("The key is ") and text.endswith("done."), f"answer: {text[:60]}")
    pieces = [chunk.text or "" for chunk in client.models.generate_content_stream(**asked)]
    seen.add("".join(pieces))
    expect("".join(pieces) == text and len(pieces) > 3, f"streamed: {len(pieces)} pieces {''.join(pieces)[:60]}")
    return f"answer, streamed in {len(pieces)} pieces"


run("google-genai", genai.__version__, body)
