#!/usr/bin/env python3
"""pip installs from a private index whose URL bears user and placeholder."""

import sys

from client import KEY, Seen, expect, run
from tool import call, home, version


def body(url: str, seen: Seen) -> str:
    to, index = home(), url.replace("https://", f"https://user:{KEY}@")
    call(seen, sys.executable, "-m", "pip", "install", "--no-cache-dir", "--disable-pip-version-check", "-v",
         "--target", to, "--index-url", f"{index}/simple/", "keyward-probe")
    expect((to / "keyward_probe.py").read_text() == "VALUE = 42\n", "the module differs")
    return "a wheel from a private index"


run("pip", version(sys.executable, "-m", "pip", "--version"), body)
