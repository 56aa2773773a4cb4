#!/usr/bin/env python3
"""OpenAI's Python library as its users write it: a chat answer, one streamed, and a streamed response."""

import openai
from client import KEY, Seen, expect, run


def body(url: str, seen: Seen) -> str:
    own = {} if url == "https://api.openai.com" else {"base_url": f"{url}/v1", "api_key": KEY}
    client = openai.OpenAI(timeout=20, max_retries=0, **own)
    asked = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
    text = client.chat.completions.create(**asked).choices[0].message.content
    seen.add(text)
    expect(text.startswith("The key is ") and text.endswith("done."), f"chat: {text[:60]}")
    pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(stream=True, **asked)
              if chunk.choices]
    seen.add("".join(pieces))
    expect("".join(pieces) == text and len(pieces) > 3, f"chat, streamed: {len(pieces)} pieces {''.join(pieces)[:60]}")
    events = list(client.responses.create(model="gpt-4o", input="hello", stream=True))
    seen.add(*events)
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    expect(said == text, f"response: {said[:60]}")
    return f"chat, streamed in {len(pieces)} pieces, response in {len(events)} events"


run("openai", openai.__version__, body)
