#!/usr/bin/env python3
"""A private repository over smart HTTP and TLS: git's own http-backend behind HTTP Basic (any user, the real key)."""

import base64
import os
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from peer import Peer, end_with_stdin, ready

peer = Peer("git_http")
REPOSITORIES = peer.dir / "repositories"
GIT = {"PATH": os.environ["PATH"], "HOME": str(peer.dir), "GIT_CONFIG_NOSYSTEM": "1"}


class Backend(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def allowed(self) -> bool:
        scheme, _, credentials = (self.headers["authorization"] or "").partition(" ")
        if scheme.lower() != "basic":
            return False
        return base64.b64decode(credentials).decode().partition(":")[2] == peer.real_key

    def body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        whole = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def serve(self) -> None:
        body = self.body()
        peer.saw(path=self.path, authorization=self.headers["authorization"])
        if not self.allowed():
            return self.answer(401, [("www-authenticate", 'Basic realm="private"')], b"wrong key\n")
        path, _, query = self.path.partition("?")
        variables = GIT | {
            "GIT_PROJECT_ROOT": str(REPOSITORIES), "GIT_HTTP_EXPORT_ALL": "1", "REMOTE_USER": "user",
            "REQUEST_METHOD": self.command, "PATH_INFO": path, "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("content-type", ""), "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
            "GIT_PROTOCOL": self.headers.get("git-protocol", ""),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=variables, stdout=subprocess.PIPE, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = [tuple(line.split(": ", 1)) for line in head.decode().split("\r\n") if ": " in line]
        status = next((int(value.split()[0]) for name, value in headers if name == "Status"), 200)
        self.answer(status, [h for h in headers if h[0] not in ("Status", "Content-Length")], content)

    do_GET = do_POST = serve


def make_repository() -> None:
    bare, work = REPOSITORIES / "private.git", peer.dir / "seed"

    def git(*words: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "init.defaultBranch=main"]
        subprocess.run(["git", *identity, *words], env=GIT, check=True, capture_output=True)

    git("init", "--bare", str(bare))
    git("-C", str(bare), "config", "http.receivepack", "true")
    git("init", str(work))
    (work / "README").write_text("private\n")
    (work / "blob").write_bytes(os.urandom(3 << 20))  # larger than http.postBuffer: a clone and push of real size
    git("-C", str(work), "add", ".")
    git("-C", str(work), "commit", "-m", "Seed")
    git("-C", str(work), "push", str(bare), "HEAD:main")


make_repository()
server = ThreadingHTTPServer(("127.0.0.1", 0), Backend)
server.socket = peer.tls("http/1.1").wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
ready(server.server_address[1])
end_with_stdin()
server.serve_forever()
