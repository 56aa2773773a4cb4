#!/usr/bin/env python3
"""cargo fetches from a private sparse registry that asks for a token, which is the placeholder."""

from client import KEY, Seen, expect, run
from tool import call, home, version


def body(url: str, seen: Seen) -> str:
    folder, store = home(), home()
    (folder / "src").mkdir()
    (folder / "src/lib.rs").write_text("")
    (folder / "Cargo.toml").write_text(
        '[package]\nname = "user"\nversion = "1.0.0"\nedition = "2021"\n[workspace]\n'
        '[dependencies]\nkeyward-probe = { version = "1", registry = "private" }\n')
    call(seen, "cargo", "fetch", folder=folder, CARGO_HOME=store,
         CARGO_REGISTRIES_PRIVATE_INDEX=f"sparse+{url}/cargo/", CARGO_REGISTRIES_PRIVATE_TOKEN=KEY,
         CARGO_REGISTRY_GLOBAL_CREDENTIAL_PROVIDERS="cargo:token")
    fetched = list(store.glob("registry/src/*/keyward-probe-1.0.0/src/lib.rs"))
    expect(len(fetched) == 1 and "VALUE" in fetched[0].read_text(), "the crate is not there")
    return "a crate from a private registry"


run("cargo", version("cargo", "--version"), body)
