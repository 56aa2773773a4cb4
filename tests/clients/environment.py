"""`keyward env --base-url`: what it prints, read by whoever it is printed for, starts real SDKs without a proxy.

bash and, where they are installed, zsh and fish read their own lines; without them fish's quoting is undone by its rules.
Docker's file is read by the rules of `docker run --env-file`, the items for Kubernetes by a YAML parser.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from inside import CACHE, MASKED

HERE = Path(__file__).resolve().parent
SHOW = "import json, os; print(json.dumps(dict(os.environ)))"
SDKS = [("openai (Python)", "OPENAI", "python_openai.py", "https://api.openai.com"),
        ("anthropic (Python)", "ANTHROPIC", "python_anthropic.py", "https://api.anthropic.com")]


def by_shell(words: list[str], text: str) -> dict[str, str]:
    """What a program sees that this shell starts after it has read the lines."""
    python = str(CACHE / "test/bin/python")
    done = subprocess.run([*words, python, SHOW], env={"LINES_OF_ENV": text}, capture_output=True, text=True, check=True,
                          timeout=30)
    return json.loads(done.stdout)


def bash(text: str, shell: str = "bash") -> dict[str, str]:
    return by_shell([shell, "-c", 'eval "$LINES_OF_ENV"; exec "$0" -c "$1"'], text)


def zsh(text: str) -> dict[str, str]:
    return bash(text, "zsh" if shutil.which("zsh") else "sh")


def fish(text: str) -> dict[str, str]:
    if shutil.which("fish"):
        return by_shell(["fish", "--no-config", "-c", "echo $LINES_OF_ENV | source; exec $argv[1] -c $argv[2]"], text)
    found = {}
    for line in filter(None, text.splitlines()):
        if line.startswith("#"):
            continue
        # Within single quotes only \\ and \' mean something else than they are.
        name, value = re.fullmatch(r"set -gx (\w+) '((?:[^'\\]|\\['\\])*)'", line).groups()
        found[name] = re.sub(r"\\(['\\])", r"\1", value)
    return found


def docker(text: str) -> dict[str, str]:
    found = {}
    for line in text.splitlines():
        line = line.lstrip()
        if line and not line.startswith("#"):
            name, equals, value = line.partition("=")
            # Quotes are not taken off, and a name has no blank.
            if not equals or not name or re.search(r"\s", name) or value[:1] in ("'", '"'):
                raise ValueError(f"docker would not take {line!r} so")
            found[name] = value
    return found


def kubernetes(text: str) -> dict[str, str]:
    read = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))"
    done = subprocess.run([CACHE / "agents/bin/python", "-c", read], input=text, capture_output=True, text=True, check=True)
    items = json.loads(done.stdout)
    if any(set(item) != {"name", "value"} or not isinstance(item["value"], str) for item in items):
        raise ValueError("an item is not a name and a text")
    return {item["name"]: item["value"] for item in items}


FORMS = {"bash": bash, "zsh": zsh, "fish": fish, "docker": docker, "kubernetes": kubernetes}


def rows(stage, binary: str, leaks, carries) -> Iterator[tuple[str, bool, str]]:
    """One row a form, and one for each SDK that is started with what stands in it."""
    first: dict[str, str] = {}
    for form, read in FORMS.items():
        words = [binary, "env", "-c", stage.dir / "keyward.toml", "--base-url", "--shell", form]
        printed = subprocess.run(words, env={"HOME": str(stage.dir)}, capture_output=True, text=True, timeout=30)
        name = f"env --base-url, {form}"
        try:
            variables = {key: value for key, value in read(printed.stdout).items()
                         if key not in ("PWD", "SHLVL", "_", "LINES_OF_ENV", "OLDPWD", "LC_CTYPE")}
        except (AttributeError, ValueError, OSError, subprocess.CalledProcessError) as error:
            yield name, False, f"{type(error).__name__}: {error} {printed.stderr[-200:]}"
            continue
        first = first or variables
        faults = [] if variables == first else [f"differs from bash: {set(variables.items()) ^ set(first.items())}"]
        faults += [f"lacks {one}" for one in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "HTTPS_PROXY") if one not in variables]
        if variables.get("OPENAI_API_KEY") != stage.token:
            faults.append("the key is not the agent's token")
        if leaks(stage.key, printed.stdout.encode()):
            faults.append("the real key stands in it")
        yield name, not faults, "; ".join(faults) or f"{len(variables)} variables"
        for sdk in SDKS if not faults else ():
            yield start(stage, form, variables, sdk, leaks, carries)


def start(stage, form: str, variables: dict[str, str], sdk: tuple, leaks, carries) -> tuple[str, bool, str]:
    """Runs an SDK with its base URL and key alone: it knows neither a proxy nor the root."""
    name, prefix, script, url = sdk
    home = tempfile.mkdtemp(dir=stage.dir)
    own = {key: value for key, value in variables.items() if key.startswith(prefix)}
    before = len(stage.seen("llm", 0))
    done = subprocess.run([CACHE / "sdk/bin/python", HERE / script, url], env=own | {"PATH": os.environ["PATH"], "HOME": home},
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=90)
    answer = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {"ok": False, "detail": done.stderr.decode()[-300:]}
    seen = stage.seen("llm", before)
    faults = [] if answer["ok"] else [answer["detail"]]
    if not seen or not all(carries(stage.key, request) for request in seen):
        faults.append(f"of {len(seen)} requests not every one had the real key")
    if leaks(stage.key, done.stdout + done.stderr):
        faults.append("the real key reached the client")
    if MASKED not in answer.get("seen", ""):
        faults.append("nothing was scrubbed")
    return f"{name}, env --base-url {form}", not faults, "; ".join(faults) or answer["detail"]
