"""What the clients that are commands share: a call with its output kept, and a version."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from client import Seen, expect


def home() -> Path:
    return Path(tempfile.mkdtemp(dir=os.environ["HOME"]))


def call(seen: Seen, *words: object, folder: Path | None = None, **variables: object) -> str:
    """The command's output, once it has succeeded; all of it goes to what the runner searches."""
    environment = os.environ | {name: str(value) for name, value in variables.items()}
    words = [str(word) for word in words]
    done = subprocess.run(words, env=environment, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    out, errors = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    seen.add(out, errors)
    expect(done.returncode == 0, f"{Path(words[0]).name} exits {done.returncode}: {(errors or out)[-250:]}")
    return out


def version(*words: object) -> str:
    """The first word of the output that looks like a version."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60)
    both = (done.stdout + done.stderr).replace('"', " ").split()
    both = [word.removeprefix("v") for word in both]
    return next((word for word in both if word[:1].isdigit() and "." in word), "")


def beside_python(name: str) -> Path:
    """A command of the Python environment that runs this."""
    return Path(sys.prefix) / "bin" / name
