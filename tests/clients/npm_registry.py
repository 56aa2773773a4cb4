#!/usr/bin/env python3
"""npm installs from a private registry with the placeholder as `_authToken`."""

import json
import os
from pathlib import Path

from client import KEY, Seen, expect, run
from tool import call, home, version

# npm comes with Node: the runner names the pinned one's folder.
NODE = Path(os.environ["NODE"])
NPM = [NODE, NODE.parent.parent / "lib/node_modules/npm/bin/npm-cli.js"]


def body(url: str, seen: Seen) -> str:
    folder = home()
    (folder / ".npmrc").write_text(f"registry={url}/npm/\n{url.removeprefix('https:')}/npm/:_authToken={KEY}\n")
    (folder / "package.json").write_text("{}")
    call(seen, *NPM, "install", "--no-audit", "--no-fund", "--no-update-notifier", "keyward-probe", folder=folder)
    installed = json.loads((folder / "node_modules/keyward-probe/package.json").read_text())
    expect(installed["version"] == "1.0.0", f"installed {installed}")
    return "a package from a private registry"


run("npm", version(*NPM, "--version"), body)
