"""What the Python clients share: the answer's shape, and the checks that every HTTP client makes the same way.

A client is started as `CLIENT.py URL` under an empty environment with the proxy and CA variables, and API_KEY, which
is the placeholder that users put there (or, without a proxy, the real key). It prints one JSON line and exits 1 where
something was not as it must be. `seen` holds everything that reached it, for the runner to search.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable

KEY = os.environ.get("API_KEY", "")
BEARER = {"Authorization": f"Bearer {KEY}"}
# What is posted must come back whole: non-ASCII, and longer than one TLS record.
POSTED = {"text": "grüße " * 4000, "number": 42}


class Seen:
    def __init__(self) -> None:
        self.parts: list[str] = []

    def add(self, *parts: object) -> None:
        for part in parts:
            self.parts.append(part.decode("latin-1") if isinstance(part, bytes) else str(part))


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise AssertionError(what)


def run(client: str, version: str, body: Callable[[str, Seen], str]) -> None:
    """Calls `body(url, seen)`, which returns a detail worth a line or raises; then prints the answer and ends."""
    seen, ok = Seen(), False
    try:
        detail = body(sys.argv[1], seen)
        ok = True
    except Exception as error:
        detail = f"{type(error).__name__}: {error}"
        seen.add(traceback.format_exc())
    answer = {"client": client, "version": version, "ok": ok, "detail": detail[:300], "seen": "\n".join(seen.parts)}
    print(json.dumps(answer))
    sys.exit(0 if ok else 1)


# Each of the HTTP clients makes these: METHOD, path, JSON body or none, what the answer's JSON must show.
def http_checks(url: str) -> list[tuple[str, str, dict | None, Callable[[dict], bool]]]:
    return [
        ("GET", f"{url}/anything?probe=1", None, lambda answer: answer["args"] == {"probe": "1"}),
        ("POST", f"{url}/post", POSTED, lambda answer: answer["json"] == POSTED),
        ("GET", f"{url}/gzip", None, lambda answer: answer["gzipped"] is True),
        ("GET", f"{url}/brotli", None, lambda answer: answer["brotli"] is True),
        ("GET", f"{url}/stream/3", None, lambda answer: answer["id"] == 0),
        ("DELETE", f"{url}/delete", None, lambda answer: "headers" in answer),
    ]


def first_json(text: str) -> dict:
    """The first JSON value of a body: /stream sends one a line."""
    return json.JSONDecoder().raw_decode(text.lstrip())[0]
