#!/usr/bin/env python3
"""websockets ≥ 15, which uses the proxy of the environment (proxy=True is its default): text, binary, 1 MiB, whoami."""

import asyncio
import os

import websockets
from client import BEARER, Seen, expect, run
from websockets.asyncio.client import connect


async def session(url: str, seen: Seen) -> str:
    target = url.replace("https://", "wss://") + "/echo"
    async with connect(target, additional_headers=BEARER, proxy=True, max_size=1 << 24) as socket:
        seen.add(socket.response.headers)
        for message in ["hello", "grüße", b"\x00\xff\x01", os.urandom(1 << 20), "x" * (1 << 20)]:
            await socket.send(message)
            expect(await socket.recv() == message, "the echo differs")
        await socket.send("whoami")
        seen.add(await socket.recv())
        waiter = await socket.ping()
        await asyncio.wait_for(waiter, 5)
    return "5 messages, 1 MiB both ways, ping"


run("websockets", websockets.__version__, lambda url, seen: asyncio.run(session(url, seen)))
