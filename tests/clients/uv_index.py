#!/usr/bin/env python3
"""uv installs from a private index whose URL bears user and placeholder."""

import sys

from client import KEY, Seen, expect, run
from tool import beside_python, call, home, version

UV = beside_python("uv")


def body(url: str, seen: Seen) -> str:
    to, index = home(), url.replace("https://", f"https://user:{KEY}@")
    call(seen, UV, "pip", "install", "--no-cache", "-v", "--python", sys.executable, "--target", to,
         "--default-index", f"{index}/simple/", "keyward-probe")
    expect((to / "keyward_probe.py").read_text() == "VALUE = 42\n", "the module differs")
    return "a wheel from a private index"


run("uv", version(UV, "--version"), body)
