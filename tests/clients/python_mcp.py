#!/usr/bin/env python3
"""The official MCP client over streamable HTTP: initialize, list, and tool calls with progress, side by side."""

import asyncio
from importlib.metadata import version

import httpx2
from client import BEARER, Seen, expect, run
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client


async def talk(url: str, seen: Seen) -> str:
    progress = []

    async def told(done: float, total: float | None, message: str | None) -> None:
        progress.append((done, total, message))

    async with (
        httpx2.AsyncClient(headers=BEARER, timeout=20) as http,
        streamable_http_client(f"{url}/mcp", http_client=http) as streams,
        ClientSession(streams[0], streams[1]) as session,
    ):
        await session.initialize()
        tools = [tool.name for tool in (await session.list_tools()).tools]
        expect(tools == ["whoami"], f"tools: {tools}")
        calls = [session.call_tool("whoami", {"word": f"word{n}"}, progress_callback=told) for n in range(5)]
        for number, answer in enumerate(await asyncio.gather(*calls)):
            text = answer.content[0].text
            seen.add(text)
            expect(text.startswith(f"word{number} "), f"the tool says: {text[:60]}")
    expect(len(progress) == 5, f"{len(progress)} of 5 notices of progress")
    return "initialize, list, 5 calls at once with progress"


run("mcp", version("mcp"), lambda url, seen: asyncio.run(talk(url, seen)))
