#!/usr/bin/env python3
"""A WebSocket echo server over TLS; the message `whoami` is answered with the key that came in the handshake."""

import asyncio
import http
import sys

from peer import Peer, ready
from websockets.asyncio.server import serve


async def main() -> None:
    peer = Peer("websocket")

    def judge(connection, request):
        authorization = request.headers.get("authorization")
        peer.saw(path=request.path, authorization=authorization)
        connection.authorization = authorization
        if not peer.bearer(authorization):
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "wrong key\n")

    async def echo(connection):
        async for message in connection:
            await connection.send(connection.authorization if message == "whoami" else message)

    async with serve(echo, "127.0.0.1", 0, ssl=peer.tls("http/1.1"), process_request=judge, max_size=1 << 24) as server:
        ready(server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)


asyncio.run(main())
