"""What first contact costs a client: a relay before the proxy that sees each connection until its tunnel stands.

A proxy that knows its client by the first CONNECT costs one TCP handshake and one CONNECT. All beyond that is extra: a 407
that is answered on the same connection costs one round trip more, a 407 after which the client has to connect anew costs
the TCP handshake and the CONNECT again.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit


@dataclass
class Connection:
    """One connection to the proxy: where it wanted to go, and the statuses that its CONNECTs got."""

    target: str = ""
    statuses: list[int] = field(default_factory=list)


def extra(connections: list[Connection]) -> int:
    """The round trips beyond the least of the costliest first contact, an upper bound where several are under way."""
    most = 0
    for target in {one.target for one in connections if one.statuses}:
        ours = [one.statuses for one in connections if one.target == target and one.statuses]
        lost = [statuses for statuses in ours if statuses[-1] == 407]
        held = [statuses for statuses in ours if statuses[-1] != 407]
        most = max(most, sum(1 + len(statuses) for statuses in lost) + max((s.count(407) for s in held), default=0))
    return most


def read(file: Path) -> list[Connection]:
    """What `main` wrote."""
    return [Connection(**one) for one in json.loads(file.read_text())] if file.exists() else []


class Relay:
    """Listens on a port of its own and passes all on to `proxy`, byte for byte."""

    def __init__(self, proxy: str) -> None:
        host, port = proxy.split(":")
        self.proxy = (host, int(port))
        self.connections: list[Connection] = []
        self.door = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.address = f"127.0.0.1:{self.door.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def close(self) -> None:
        # A shutdown wakes the thread that waits in accept; closing alone does not.
        self.door.shutdown(socket.SHUT_RDWR)
        self.door.close()

    def accept(self) -> None:
        while True:
            try:
                agent, _ = self.door.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(agent,), daemon=True).start()

    def serve(self, agent: socket.socket) -> None:
        one = Connection()
        self.connections.append(one)
        with agent, socket.create_connection(self.proxy) as proxy:
            for end in (agent, proxy):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            up = threading.Thread(target=pump, args=(agent, proxy, Requests(one)), daemon=True)
            up.start()
            pump(proxy, agent, Answers(one))
            up.join()


def pump(source: socket.socket, to: socket.socket, watch) -> None:
    try:
        while part := source.recv(1 << 16):
            watch.see(part)
            to.sendall(part)
    except OSError:
        pass
    # The other way may go on after this one has ended.
    for end, how in ((to, socket.SHUT_WR), (source, socket.SHUT_RD)):
        try:
            end.shutdown(how)
        except OSError:
            pass


class Requests:
    """Reads the target of the first request; what follows goes to the same one."""

    def __init__(self, one: Connection) -> None:
        self.one, self.held = one, b""

    def see(self, part: bytes) -> None:
        if not self.one.target:
            self.held += part
            line, found, _ = self.held.partition(b"\r\n")
            words = line.split()
            if found and len(words) == 3:
                # Without a tunnel each request stands for itself, and none of them is counted.
                self.one.target = words[1].decode("latin-1") if words[0] == b"CONNECT" else "no tunnel"


class Answers:
    """Reads the statuses until the tunnel stands."""

    def __init__(self, one: Connection) -> None:
        self.one, self.held, self.body = one, b"", 0

    def see(self, part: bytes) -> None:
        if self.one.target == "no tunnel" or 200 in self.one.statuses:
            return
        self.held += part
        while True:
            if self.body:
                gone = min(self.body, len(self.held))
                self.held, self.body = self.held[gone:], self.body - gone
            head, found, rest = self.held.partition(b"\r\n\r\n")
            if self.body or not found:
                return
            first, *fields = head.decode("latin-1").split("\r\n")
            self.one.statuses.append(int(first.split()[1]))
            lengths = [int(value) for name, _, value in (line.partition(":") for line in fields)
                       if name.lower() == "content-length"]
            self.held, self.body = rest, lengths[0] if lengths else 0
            if self.one.statuses[-1] == 200:
                return


def main() -> int:
    file, *command = sys.argv[1:]
    proxy = urlsplit(os.environ["HTTPS_PROXY"])
    relay = Relay(f"{proxy.hostname}:{proxy.port}")
    led = f"{proxy.scheme}://{proxy.username}:{proxy.password}@{relay.address}"
    names = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")
    done = subprocess.run(command, env=os.environ | dict.fromkeys(names, led))
    Path(file).write_text(json.dumps([asdict(one) for one in relay.connections]))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
