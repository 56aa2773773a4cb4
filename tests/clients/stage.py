"""What the runs share: ports, children that end with the run, and rows that close it with a count."""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port: int):
    """Whether somebody listens there, to be asked again and again."""
    return lambda: socket.create_connection(("127.0.0.1", port), 1).close() or True


class Stage:
    """A temporary folder and the servers in it; `end` stops what this started and nothing else."""

    def __init__(self, name: str) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix=f"keyward-{name}-"))
        self.children: list[subprocess.Popen] = []

    def start(self, name: str, words: list, environment: dict, ready) -> subprocess.Popen:
        """Starts a child, and waits until it is ready."""
        log = (self.dir / f"{name}.log").open("w")
        child = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=log,
                                 stderr=subprocess.STDOUT, env=environment, cwd=self.dir)
        self.children.append(child)
        for _ in range(300):
            if child.poll() is not None:
                break
            try:
                if ready():
                    return child
            except OSError:
                pass
            time.sleep(0.1)
        text = (self.dir / f"{name}.log").read_text()[-2000:]
        self.end()
        sys.exit(f"{Path(sys.argv[0]).name}: {name} did not start\n{text}")

    def secret(self, name: str, text: str) -> None:
        """A file for its owner alone."""
        (self.dir / name).touch(mode=0o600)
        (self.dir / name).write_text(text)

    def client(self, *words: object, environment: dict) -> subprocess.CompletedProcess:
        """A client under this environment and no other."""
        return subprocess.run([str(word) for word in words], stdin=subprocess.DEVNULL, capture_output=True,
                              env=environment, cwd=self.dir / "home", timeout=200)

    def end(self) -> None:
        for child in reversed(self.children):
            if child.poll() is None:
                child.terminate()
        for child in self.children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


class Rows:
    """What was tried, a line each."""

    def __init__(self) -> None:
        self.all: list[bool] = []

    def __call__(self, name: str, ok: bool, detail: str) -> None:
        self.all.append(ok)
        print(f"{'ok  ' if ok else 'FAIL'} {name:44} {detail[:300]}", flush=True)

    def close(self, stage: Stage) -> None:
        """Ends the stage; with `--keep` its folder stays to be looked at."""
        stage.end()
        if "--keep" in sys.argv:
            print(f"kept: {stage.dir}")
        else:
            shutil.rmtree(stage.dir, ignore_errors=True)

    def exit(self) -> None:
        print(f"{sum(self.all)} passed, {len(self.all) - sum(self.all)} failed")
        sys.exit(0 if all(self.all) and self.all else 1)
