#!/usr/bin/env python3
"""kubectl with the placeholder as its user's token: raw reads and a create. The server is no cluster, it sends back."""

import json
import os
from pathlib import Path

from client import KEY, Seen, expect, run
from tool import call, home, version

CONFIG = {"apiVersion": "v1", "kind": "Config", "current-context": "c",
          "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
          "users": [{"name": "u", "user": {"token": KEY}}]}


def body(url: str, seen: Seen) -> str:
    folder = home()
    file = folder / "config"
    file.write_text(json.dumps(CONFIG | {"clusters": [{"name": "k", "cluster": {"server": url}}]}))
    words = ["kubectl", "--kubeconfig", file]
    answer = json.loads(call(seen, *words, "get", "--raw", "/anything/api/v1/namespaces?limit=5"))
    expect(answer["args"] == {"limit": "5"}, f"the echo differs: {answer['args']}")
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "probe"}, "data": {"text": "grüße"}}
    Path(folder / "made.json").write_text(json.dumps(made))
    answer = json.loads(call(seen, *words, "create", "--raw", "/anything/configmaps", "-f", folder / "made.json"))
    expect(answer["json"] == made, f"the echo differs: {str(answer['json'])[:100]}")
    return "a raw read, a raw create"


os.environ.setdefault("KUBECACHEDIR", os.environ["HOME"])
run("kubectl", version("kubectl", "version", "--client"), body)
