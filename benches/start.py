#!/usr/bin/env python3
"""What `keyward run` adds to the start of a command: bare and inside in turn, so that both meet the same machine.

    benches/start.py target/release/keyward [ROUNDS]     the least, the median and the 95th percentile in milliseconds

The command is `true`, with one key of a known service in its environment, in a home of its own. Exit code 1 where the
medians lie more than 50 ms apart.
"""

import os
import subprocess
import sys
import tempfile
import time

BUDGET = 50.0


def timed(words: list[str], environment: dict[str, str]) -> float:
    begun = time.perf_counter()
    subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - begun) * 1000


def main() -> None:
    keyward = os.path.abspath(sys.argv[1])
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 60
    with tempfile.TemporaryDirectory() as home:
        environment = {"PATH": "/usr/bin:/bin", "HOME": home, "OPENAI_API_KEY": "sk-start-0123456789abcdef"}
        kinds = {"bare": ["true"], "run": [keyward, "run", "--", "true"],
                 "run --isolate": [keyward, "run", "--isolate", "--", "true"]}
        times: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(rounds):
            for name, words in kinds.items():
                times[name].append(timed(words, environment))
    for name, all_of in times.items():
        all_of.sort()
        print(f"{name:14} least {all_of[0]:6.1f}  median {all_of[rounds // 2]:6.1f}  p95 {all_of[rounds * 95 // 100]:6.1f} ms")
    added = times["run"][rounds // 2] - times["bare"][rounds // 2]
    print(f"run adds {added:.1f} ms to the start (median; budget {BUDGET:.0f} ms)")
    sys.exit(added > BUDGET)


main()
