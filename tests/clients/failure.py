"""What goes wrong for a user of `keyward run`, through real clients: a wrong key, none, one that has expired, a host that
no route names. Each must end, soon and with words that say why, and show nothing of a key.
"""

import json
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from inside import AGENTS, CACHE, Agent, network, program

HERE = Path(__file__).resolve().parent
PYTHON, SDK = CACHE / "test/bin/python", CACHE / "sdk/bin/python"


@dataclass
class Script:
    """A program of this folder, and what its library says of a key that the service refuses, or of none."""

    name: str
    variable: str
    words: tuple
    url: str
    refused: str
    missing: str


def scripts(node: Path) -> list[Script]:
    return [
        Script("openai (Python)", "OPENAI_API_KEY", (SDK, "python_openai.py"), "https://api.openai.com",
               "Incorrect API key provided", "OPENAI_API_KEY"),
        Script("anthropic (Python)", "ANTHROPIC_API_KEY", (SDK, "python_anthropic.py"), "https://api.anthropic.com",
               "invalid x-api-key", "authentication"),
        Script("openai (Node)", "OPENAI_API_KEY", (node, "node_openai.cjs"), "https://api.openai.com",
               "Incorrect API key provided", "OPENAI_API_KEY"),
        Script("anthropic (Node)", "ANTHROPIC_API_KEY", (node, "node_anthropic.cjs"), "https://api.anthropic.com",
               "invalid x-api-key", "authentication"),
    ]


@dataclass
class Asker:
    """A client that asks for a host which no route names, and what its user must see of the answer."""

    name: str
    words: tuple
    # The word of the refusal where the client shows the status line or the body; else the status.
    shows: str = "no-route"


URL = "https://unknown.test/x"
# Claude Code asks ten times more where it is told no, for longer than anybody waits.
FEW = {"CLAUDE_CODE_MAX_RETRIES": "1"}
AIOHTTP = (f"import asyncio, aiohttp\nasync def main():\n async with aiohttp.ClientSession(trust_env=True) as session:\n"
           f"  await session.get({URL!r})\nasyncio.run(main())")


def askers(node: Path) -> list[Asker]:
    return [
        Asker("curl", ("curl", "-sS", URL), "403"),
        Asker("curl -v", ("curl", "-sSv", URL)),
        Asker("requests", (PYTHON, "-c", f"import requests; requests.get({URL!r})")),
        Asker("urllib", (PYTHON, "-c", f"import urllib.request; urllib.request.urlopen({URL!r})")),
        Asker("httpx", (PYTHON, "-c", f"import httpx; httpx.get({URL!r})")),
        Asker("aiohttp", (PYTHON, "-c", AIOHTTP)),
        Asker("git", ("git", "ls-remote", URL), "403"),
        Asker("gh", ("gh", "api", URL)),
        Asker("node fetch", (node, "-e", f"fetch({URL!r})"), "403"),
    ]


def in_run(stage, binary: str, words: tuple, variables: dict[str, str], home: Path) -> subprocess.CompletedProcess:
    base = {"PATH": os.environ["PATH"], "HOME": str(home), "NODE_PATH": str(CACHE / "node-sdk/node_modules")}
    return subprocess.run([binary, "run", "--strict", "-c", network(stage), "--", *words], env=base | variables, cwd=home,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=120)


def judged(name: str, faults: list[str], told: str) -> tuple[str, bool, str]:
    return name, not faults, "; ".join(faults) or " ".join(told.split())[:150]


def rows(stage, binary: str, node: Path) -> Iterator[tuple[str, bool, str]]:
    for script in scripts(node):
        yield wrong_key(stage, binary, script)
        yield missing_key(stage, binary, script)
    for agent in AGENTS:
        yield agent_fails(stage, binary, agent, node)
    yield expired(stage, binary, node)
    for asker in askers(node):
        yield unknown_host(stage, binary, asker)


def home_of(stage) -> Path:
    return Path(tempfile.mkdtemp(dir=stage.dir, prefix="failure-"))


def wrong_key(stage, binary: str, script: Script) -> tuple[str, bool, str]:
    wrong, before = f"sk-wrong-{secrets.token_hex(16)}", len(stage.seen("llm", 0))
    words = (script.words[0], HERE / script.words[1], script.url)
    done = in_run(stage, binary, words, {script.variable: wrong}, home_of(stage))
    told = (done.stdout + done.stderr).decode(errors="replace")
    faults = [] if done.returncode else ["it ended well"]
    if script.refused not in told:
        faults.append(f"the service's own words are not shown: {told[-300:]}")
    if wrong in told:
        faults.append("the wrong key reached the client")
    if not any(wrong in json.dumps(request) for request in stage.seen("llm", before)):
        faults.append("the service never saw it")
    return judged(f"wrong key: {script.name}", faults, script.refused)


def missing_key(stage, binary: str, script: Script) -> tuple[str, bool, str]:
    before = len(stage.seen("llm", 0))
    words = (script.words[0], HERE / script.words[1], script.url)
    done = in_run(stage, binary, words, {}, home_of(stage))
    told = (done.stdout + done.stderr).decode(errors="replace")
    faults = [] if done.returncode else ["it ended well"]
    if script.missing not in told:
        faults.append(f"the library's own words are not shown: {told[-300:]}")
    if "so nothing is injected" not in told:
        faults.append("keyward does not say that it has no key")
    if stage.seen("llm", before):
        faults.append("a request reached the service all the same")
    return judged(f"no key: {script.name}", faults, "the library's own words, and keyward's")


def agent_fails(stage, binary: str, agent: Agent, node: Path) -> tuple[str, bool, str]:
    wrong, before, begun = f"sk-wrong-{secrets.token_hex(16)}", len(stage.seen("llm", 0)), time.monotonic()
    home = home_of(stage)
    try:
        done = in_run(stage, binary, (*program(agent, node), *agent.words),
                      FEW | {agent.variable: wrong, "PATH": f"{node.parent}:{os.environ['PATH']}"}, home)
    except subprocess.TimeoutExpired:
        return f"wrong key: {agent.name}", False, "it did not end within 120 s"
    reached = done.stdout + done.stderr + b"".join(file.read_bytes() for file in home.rglob("*") if file.is_file())
    faults = [] if done.returncode else ["it ended well"]
    if wrong.encode() in reached:
        faults.append("the wrong key reached the agent")
    statuses = {request["status"] for request in stage.seen("llm", before) if request["path"].startswith(agent.path)}
    if statuses != {401}:
        faults.append(f"the service answered {statuses}, not 401")
    if b"401" not in reached and b"API key" not in reached:
        faults.append(f"the agent does not say why: {reached[-300:]}")
    return judged(f"wrong key: {agent.name}", faults, f"ended after {time.monotonic() - begun:.0f} s")


def expired(stage, binary: str, node: Path) -> tuple[str, bool, str]:
    agent, home = AGENTS[0], home_of(stage)
    login = {"accessToken": f"sk-ant-oat01-{secrets.token_hex(20)}", "refreshToken": "none", "expiresAt": 1_600_000_000_000,
             "scopes": ["user:inference"]}
    (home / ".claude").mkdir()
    (home / ".claude/.credentials.json").write_text(json.dumps({"claudeAiOauth": login}))
    try:
        done = in_run(stage, binary, (*program(agent, node), *agent.words), FEW, home)
    except subprocess.TimeoutExpired:
        return "expired login: Claude Code", False, "it did not end within 120 s"
    told = done.stderr.decode(errors="replace")
    faults = [] if done.returncode else ["it ended well"]
    if "has expired: let its own tool renew it" not in told:
        faults.append(f"keyward does not say so: {told[-300:]}")
    return judged("expired login: Claude Code", faults, "keyward says so before it starts")


def unknown_host(stage, binary: str, asker: Asker) -> tuple[str, bool, str]:
    variables = {"GH_TOKEN": "gho_placeholder0123456789"} if asker.name == "gh" else {}
    done = in_run(stage, binary, asker.words, variables, home_of(stage))
    # Without keyward's own line at the end.
    told = (done.stdout + done.stderr).decode(errors="replace").partition("keyward: 0 requests")[0]
    faults = [] if done.returncode else ["it ended well"]
    if asker.shows not in told:
        faults.append(f"its user does not see {asker.shows}: {told[-400:]}")
    line = next((line for line in told.splitlines() if asker.shows in line), "")
    return judged(f"unknown host: {asker.name}", faults, line)
