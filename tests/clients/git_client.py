#!/usr/bin/env python3
"""git: clones a private repository, commits, pushes, and fetches what it pushed; the server asks for Basic.

A push beyond `http.postBuffer` is sent as it is made. Over HTTP/2 git can then wait for itself for ever, with any server
(git/git#1608: libcurl asks once more after the end, and git reads a pipe on which nothing will come). So the push in
pieces goes over HTTP/1.1, and the one over HTTP/2 is of known length.
"""

import os
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from client import KEY, Seen, expect, run

VERSION = subprocess.run(["git", "--version"], capture_output=True, text=True).stdout.split()[-1]


def body(url: str, seen: Seen) -> str:
    parts = urlsplit(url)
    remote = f"https://user:{KEY}@{parts.netloc}/private.git"
    folder = Path(tempfile.mkdtemp(dir=os.environ["HOME"]))
    environment = os.environ | {"GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *words],
                              env=environment, capture_output=True, text=True, timeout=60)
        seen.add(done.stdout, done.stderr)
        expect(done.returncode == 0, f"git {words[0]}: {done.stderr[-200:]}")
        return done.stdout

    git("clone", remote, str(folder / "one"))
    expect((folder / "one/README").read_text() == "private\n", "the clone differs")
    for how in ("http.version=HTTP/1.1", f"http.postBuffer={8 << 20}"):
        (folder / "one/large").write_bytes(os.urandom(2 << 20))
        git("-C", str(folder / "one"), "add", ".")
        git("-C", str(folder / "one"), "commit", "-m", "Change")
        git("-C", str(folder / "one"), "-c", how, "push", "origin", "HEAD:refs/heads/pushed")
        wanted = git("-C", str(folder / "one"), "rev-parse", "HEAD").strip()
        expect(git("ls-remote", remote, "refs/heads/pushed").split()[0] == wanted, f"the push did not arrive ({how})")
    git("clone", "--branch", "pushed", remote, str(folder / "two"))
    expect((folder / "two/large").stat().st_size == 2 << 20, "the second clone differs")
    return "clone, push of 2 MiB (HTTP/1.1 chunked, HTTP/2), ls-remote, clone"


run("git", VERSION, body)
