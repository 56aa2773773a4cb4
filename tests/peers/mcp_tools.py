#!/usr/bin/env python3
"""An MCP server over streamable HTTP and TLS (the official package's), which asks every request for the real key.

Its one tool, `whoami`, sends back the Authorization that arrived: what must be scrubbed from an event stream.
"""

import os
import sys
from pathlib import Path

AGENTS = Path(os.environ.get("KEYWARD_CACHE") or Path.home() / ".cache/keyward") / "agents/bin/python"
# It stands on another environment than the other servers.
if Path(sys.executable) != AGENTS:
    os.execv(AGENTS, [AGENTS, *sys.argv])

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from peer import Peer, end_with_stdin, free_port, ready


def main() -> None:
    peer = Peer("mcp_tools")
    server = MCPServer("test")

    @server.tool()
    async def whoami(word: str, context: Context) -> str:
        """Says who asks."""
        await context.report_progress(1, 2, "half")
        return f"{word} {context.headers['authorization']}"

    security = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    inner = server.streamable_http_app(transport_security=security)

    async def app(scope, receive, send):
        if scope["type"] == "http":
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            peer.saw(path=scope["path"], method=scope["method"], authorization=headers.get("authorization"))
            if not peer.bearer(headers.get("authorization")):
                await send({"type": "http.response.start", "status": 401, "headers": []})
                await send({"type": "http.response.body", "body": b"wrong key"})
                return
        await inner(scope, receive, send)

    port = free_port()
    end_with_stdin()
    config = uvicorn.Config(app, "127.0.0.1", port, log_level="warning", ssl_certfile=str(peer.dir / "server.pem"),
                            ssl_keyfile=str(peer.dir / "server.key"))

    class Server(uvicorn.Server):
        async def startup(self, sockets=None) -> None:
            await super().startup(sockets)
            ready(port)

    Server(config).run()


main()
