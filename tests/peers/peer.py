"""What every server of tests/peers shares: its folder, the real key, the record of what it saw, and its end.

A peer is started as `PEER.py DIR`. DIR holds server.pem, server.key and `real-key`. It prints its port as the first
line of stdout and ends when stdin closes, so that a dead runner leaves nothing behind. Each request that reaches it is
one JSON line in DIR/NAME.seen: what a test asks to know which key arrived.
"""

import json
import os
import socket
import ssl
import sys
import threading
from pathlib import Path


class Peer:
    def __init__(self, name: str) -> None:
        if len(sys.argv) != 2:
            sys.exit(f"usage: {name}.py DIR")
        self.dir = Path(sys.argv[1]).resolve()
        self.real_key = (self.dir / "real-key").read_text().strip()
        self._seen = (self.dir / f"{name}.seen").open("a", buffering=1)

    def saw(self, **members: object) -> None:
        """Records one request; one write a line, so that threads do not mix."""
        self._seen.write(json.dumps(members) + "\n")

    def bearer(self, authorization: str | None) -> bool:
        return authorization == f"Bearer {self.real_key}"

    def tls(self, *alpn: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.dir / "server.pem", self.dir / "server.key")
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context


def ready(port: int) -> None:
    print(port, flush=True)


def end_with_stdin() -> None:
    """For servers that own the main thread: a daemon thread ends the process when stdin closes."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def free_port() -> int:
    """For servers that cannot bind port 0 themselves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
