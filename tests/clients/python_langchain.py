#!/usr/bin/env python3
"""LangChain as its users write it: an answer, one streamed, and a tool that the model calls."""

from importlib.metadata import version

from client import KEY, Seen, expect, run
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool
def lookup(word: str) -> str:
    """Looks a word up."""
    return f"found {word}"


def body(url: str, seen: Seen) -> str:
    own = {} if url == "https://api.openai.com" else {"base_url": f"{url}/v1", "api_key": KEY}
    model = ChatOpenAI(model="gpt-4o", timeout=20, max_retries=0, **own)
    text = model.invoke("hello").content
    seen.add(text)
    expect(text.startswith("The key is ") and text.endswith("done."), f"answer: {text[:60]}")
    pieces = [chunk.content for chunk in model.stream("hello")]
    seen.add("".join(pieces))
    expect("".join(pieces) == text and len(pieces) > 3, f"streamed: {len(pieces)} pieces {''.join(pieces)[:60]}")
    said = [HumanMessage("call lookup")]
    said.append(model.bind_tools([lookup]).invoke(said))
    calls = said[-1].tool_calls
    expect([call["name"] for call in calls] == ["lookup"], f"calls: {calls}")
    said.append(ToolMessage(lookup.invoke(calls[0]["args"]), tool_call_id=calls[0]["id"]))
    last = model.bind_tools([lookup]).invoke(said).content
    seen.add(last)
    expect(last.startswith("The tool ran"), f"after the tool: {last[:60]}")
    return f"answer, streamed in {len(pieces)} pieces, a tool call"


run("langchain-openai", version("langchain-openai"), body)
