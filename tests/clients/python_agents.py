#!/usr/bin/env python3
"""OpenAI's Agents SDK as its users write it: an agent with a tool runs to its end, at once and streamed."""

import asyncio
from importlib.metadata import version

from agents import Agent, Runner, function_tool, set_default_openai_client, set_tracing_disabled
from client import KEY, Seen, expect, run
from openai import AsyncOpenAI

CALLED = []


@function_tool
def lookup(word: str) -> str:
    """Looks a word up."""
    CALLED.append(word)
    return f"found {word}"


async def talk(url: str, seen: Seen) -> str:
    set_tracing_disabled(True)
    if url != "https://api.openai.com":
        set_default_openai_client(AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY), use_for_tracing=False)
    agent = Agent(name="tester", instructions="Use the tool.", tools=[lookup], model="gpt-4o")
    result = await Runner.run(agent, "call lookup")
    seen.add(result.final_output)
    expect(CALLED == ["the-tool-ran"], f"the tool was called with {CALLED}")
    expect(result.final_output.startswith("The tool ran"), f"it ends with {result.final_output[:60]}")
    streamed = Runner.run_streamed(agent, "call lookup")
    events = 0
    async for event in streamed.stream_events():
        events += 1
        seen.add(event)
    expect(streamed.final_output.startswith("The tool ran"), f"streamed: {streamed.final_output[:60]}")
    expect(len(CALLED) == 2, f"the tool was called with {CALLED}")
    return f"a run with a tool, and one streamed in {events} events"


run("openai-agents", version("openai-agents"), lambda url, seen: asyncio.run(talk(url, seen)))
