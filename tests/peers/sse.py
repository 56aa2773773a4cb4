#!/usr/bin/env python3
"""A Server-Sent Events source over TLS: `/events?n=20&ms=50`, each event flushed alone and stamped with its birth.

The event numbered 1 carries the key that was sent, so that a stream too must be scrubbed.
"""

import asyncio
import json
import sys
import time

from aiohttp import web
from peer import Peer, ready


async def main() -> None:
    peer = Peer("sse")

    async def events(request: web.Request) -> web.StreamResponse:
        authorization = request.headers.get("authorization")
        peer.saw(path=request.path_qs, authorization=authorization)
        if not peer.bearer(authorization):
            return web.json_response({"error": "wrong key"}, status=401)
        stream = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-store"})
        await stream.prepare(request)
        for number in range(int(request.query.get("n", 20))):
            event = {"number": number, "born": time.time()} | ({"echo": authorization} if number == 1 else {})
            await stream.write(f"data: {json.dumps(event)}\n\n".encode())
            await asyncio.sleep(int(request.query.get("ms", 50)) / 1000)
        await stream.write_eof()
        return stream

    app = web.Application()
    app.router.add_get("/events", events)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=peer.tls("http/1.1"))
    await site.start()
    ready(runner.addresses[0][1])
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)


asyncio.run(main())
