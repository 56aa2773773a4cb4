"""Agents inside `keyward run`: each as its user starts it, with its key in the environment and nothing else set up.

Each has a folder and a home of its own. It is asked to call a tool that shows its whole environment and every process
that it can see; the model's answers hold the key that arrived. So the key would be found in what it printed or kept,
wherever it leaked. The file that `run` is given holds `[upstream]` alone: it leads the real names to servers of this
machine, and everything else is what `run` does without a file. `--strict` keeps the agents from calling anybody else.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from clients import HOSTS, PRESETS
from contact import Connection, read

CACHE = Path(os.environ.get("KEYWARD_CACHE") or Path.home() / ".cache/keyward")
MODULES = CACHE / "node-agents/node_modules"
SENT = {"ANTHROPIC_API_KEY": "anthropic", "OPENAI_API_KEY": "openai", "GEMINI_API_KEY": "gemini"}
MASKED = "********"


@dataclass
class Agent:
    name: str
    # The one variable that its user sets.
    variable: str
    host: str
    # Below node_modules; `*` stands for the machine's kind.
    program: str
    words: tuple[str, ...]
    version: tuple[str, ...] = ("--version",)
    # The path of the conversation.
    path: str = ""
    # Options of `run`.
    options: tuple[str, ...] = ()
    # Those of its last run.
    connections: list[Connection] = field(default_factory=list)
    # As `clients.Client`.
    extra: int = 0
    contact: str = ""


AGENTS = [
    Agent("Claude Code", "ANTHROPIC_API_KEY", "api.anthropic.com", "@anthropic-ai/claude-code-linux-*/claude",
          ("-p", "call Bash", "--allowedTools", "Bash", "--output-format", "stream-json", "--verbose"),
          path="/v1/messages"),
    Agent("Codex CLI", "OPENAI_API_KEY", "api.openai.com", "@openai/codex-linux-*/vendor/*/bin/codex",
          ("exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "--json", "call exec_command"),
          path="/v1/responses"),
    Agent("Gemini CLI", "GEMINI_API_KEY", "generativelanguage.googleapis.com", "@google/gemini-cli/bundle/gemini.js",
          ("--skip-trust", "--yolo", "-m", "gemini-2.5-flash", "-o", "stream-json", "-p", "call run_shell_command"),
          path="/v1beta/models/"),
]


@dataclass
class Sdk:
    """A program of this folder that knows no proxy, inside `keyward run --base-url`."""

    name: str
    variable: str
    host: str
    script: str
    # The preset, which is the path's first segment.
    preset: str


# The machine's own Node may be one whose `fetch` knows no proxy at all (20): exactly those need this.
SDKS = [
    Sdk("openai (Node)", "OPENAI_API_KEY", "api.openai.com", "node_openai.cjs", "openai"),
    Sdk("anthropic (Node)", "ANTHROPIC_API_KEY", "api.anthropic.com", "node_anthropic.cjs", "anthropic"),
    Sdk("google-genai (Node)", "GEMINI_API_KEY", "generativelanguage.googleapis.com", "node_genai.cjs", "gemini"),
    Sdk("openai (Python)", "OPENAI_API_KEY", "api.openai.com", "python_openai.py", "openai"),
    Sdk("anthropic (Python)", "ANTHROPIC_API_KEY", "api.anthropic.com", "python_anthropic.py", "anthropic"),
]


def look_at_sdk(stage, sdk: Sdk, binary: str, leaks, carries) -> tuple[bool, str, str]:
    """Runs one SDK by base URL alone; as `look`."""
    home = Path(tempfile.mkdtemp(dir=stage.dir, prefix="sdk-"))
    node = sdk.script.endswith("cjs")
    interpreter = shutil.which("node") if node else CACHE / "sdk/bin/python"
    base = {"PATH": os.environ["PATH"], "HOME": str(home), "NODE_PATH": str(CACHE / "node-sdk/node_modules")}
    start = len(stage.seen("llm", 0))
    # Without the proxy's variables: what works then works by the base URL.
    bare = ["env", *(f"-u{name}" for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"))]
    words = [binary, "run", "--strict", "--base-url", "-c", network(stage), "--", *bare, interpreter,
             Path(__file__).resolve().parent / sdk.script, f"https://{sdk.host}"]
    done = subprocess.run(words, env=base | {sdk.variable: stage.key}, cwd=home, stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=90)
    answer = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {"ok": False, "detail": done.stderr.decode()[-300:]}
    seen = stage.seen("llm", start)
    faults = [] if answer["ok"] else [answer["detail"]]
    if not seen or not all(carries(stage.key, request) for request in seen):
        faults.append(f"of {len(seen)} requests not every one had the real key")
    if found := leaks(stage.key, done.stdout + done.stderr):
        faults.append(f"the real key reached the client: {', '.join(found)}")
    if MASKED not in answer.get("seen", ""):
        faults.append("no masked key in the answers, so nothing was scrubbed")
    run_by = subprocess.run([interpreter, "--version"], capture_output=True, text=True, timeout=30).stdout.strip()
    return not faults, answer.get("version", ""), "; ".join(faults) or f"{answer['detail']} ({len(seen)} requests seen), {run_by}"


def network(stage) -> Path:
    """The file that leads the names of the services to the servers of this machine."""
    file = stage.dir / "network.toml"
    targets = ", ".join(f'"{host}:443" = "127.0.0.1:{stage.ports[peer]}"' for host, (peer, _) in HOSTS.items())
    file.write_text(f'[upstream]\ntrust = ["{stage.dir}/ca.pem"]\nconnect-to = {{ {targets} }}\n')
    return file


def program(agent: Agent, node: Path) -> list[Path]:
    found = sorted(MODULES.glob(agent.program))
    if not found:
        raise FileNotFoundError(f"{agent.program} is not installed: run tests/peers/install.sh")
    return [node, found[0]] if found[0].suffix == ".js" else [found[0]]


def placeholder_of(agent: Agent) -> str:
    return tomllib.loads((PRESETS / f"{SENT[agent.variable]}.toml").read_text())["key"][0]["placeholder"]


def look(stage, agent: Agent, binary: str, node: Path, leaks, carries) -> tuple[bool, str, str]:
    """Runs one agent to its end: whether all held, its version, and what it did or what went wrong."""
    home = Path(tempfile.mkdtemp(dir=stage.dir, prefix="agent-"))
    folder = home / "project"
    folder.mkdir()
    base = {"PATH": f"{node.parent}:{os.environ['PATH']}", "HOME": str(home)}
    command = program(agent, node)
    told = subprocess.run([*command, *agent.version], env=base, cwd=folder, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=60).stdout
    version = next((word for word in told.split() if word[0].isdigit()), "")
    start = len(stage.seen("llm", 0))
    counted = home / "contact.json"
    relay = [sys.executable, Path(__file__).with_name("contact.py"), counted]
    words = [binary, "run", "--strict", *agent.options, "-c", network(stage), "--", *relay, *command, *agent.words]
    done = subprocess.run(words, env=base | {agent.variable: stage.key}, cwd=folder, stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=120)
    out, errors = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    kept = [file for file in home.rglob("*") if file.is_file()]
    reached = done.stdout + done.stderr + b"".join(file.read_bytes() for file in kept)
    agent.connections = read(counted)
    seen = stage.seen("llm", start)
    faults = [] if done.returncode == 0 else [f"exit code {done.returncode}: {errors[-300:]}"]
    if "the-tool-ran" not in out:
        faults.append(f"the tool did not run: {out[-200:]}")
    if f"{agent.variable}={placeholder_of(agent)}" not in out:
        faults.append("the tool did not see the placeholder in its environment")
    if "all done." not in out:
        faults.append("the model's last answer is not in the output")
    if MASKED not in out:
        faults.append("no masked key in the answer, so nothing was scrubbed")
    asked = [request for request in seen if request["path"].startswith(agent.path)]
    if not asked:
        faults.append(f"no request for {agent.path}")
    bare = [request["path"] for request in seen if not carries(stage.key, request)]
    if bare:
        faults.append(f"{len(bare)} requests without the real key: {bare[:3]}")
    if placeholder_of(agent) in json.dumps(seen):
        faults.append("the placeholder went upstream")
    if found := leaks(stage.key, reached):
        faults.append(f"the real key reached the agent: {', '.join(found)}")
    last = errors.strip().splitlines()[-1:] or [""]
    if SENT[agent.variable] not in last[0].partition("credentials used:")[2]:
        faults.append(f"the line at the end is: {last[0]}")
    protocols = sorted({request["protocol"] for request in asked})
    upgraded = " over a WebSocket" if any(request["status"] == 101 for request in asked) else ""
    did = f"a conversation with a tool call{upgraded} ({len(seen)} requests seen, {', '.join(protocols)})"
    return not faults, version, "; ".join(faults) or did
