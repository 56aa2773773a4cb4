#!/usr/bin/env python3
"""aiohttp with trust_env=True: twenty requests at a time beside the common checks."""

import asyncio

import aiohttp
from client import BEARER, Seen, expect, first_json, http_checks, run


async def session(url: str, seen: Seen) -> str:
    async with aiohttp.ClientSession(trust_env=True, headers=BEARER) as client:
        for method, target, posted, holds in http_checks(url):
            if "brotli" in target:
                continue  # needs an extra package
            async with client.request(method, target, json=posted) as answer:
                text = await answer.text()
                seen.add(answer.headers, text)
                expect(answer.status == 200, f"{target}: {answer.status} {text[:100]}")
                expect(holds(first_json(text)), f"{target}: not the answer that was asked for")

        async def one(number: int) -> None:
            async with client.get(f"{url}/anything", params={"n": number}) as answer:
                seen.add(content := await answer.json())
                expect(content["args"] == {"n": str(number)}, f"answer {content['args']} to request {number}")

        await asyncio.gather(*(one(number) for number in range(20)))
    return "25 requests, 20 at a time"


run("aiohttp", aiohttp.__version__, lambda url, seen: asyncio.run(session(url, seen)))
