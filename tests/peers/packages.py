"""Private registries as files, with one package each: Python's simple index, npm's packument, cargo's sparse index."""

import base64
import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path

NAME, VERSION = "keyward-probe", "1.0.0"


def write(root: Path) -> None:
    wheel(root / "simple" / NAME)
    npm(root / "npm")
    cargo(root / "cargo")


def wheel(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name, info = f"keyward_probe-{VERSION}-py3-none-any.whl", f"keyward_probe-{VERSION}.dist-info"
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr("keyward_probe.py", "VALUE = 42\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"keyward_probe.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "index.html").write_text(f'<!DOCTYPE html><a href="{name}#sha256={digest}">{name}</a>\n')


def tarball(prefix: str, files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"{prefix}/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return gzip.compress(out.getvalue())


def npm(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    manifest = {"name": NAME, "version": VERSION, "main": "index.js"}
    packed = tarball("package", {"package.json": json.dumps(manifest), "index.js": "module.exports = 42;\n"})
    (folder / f"{NAME}-{VERSION}.tgz").write_bytes(packed)
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(packed).digest()).decode()
    dist = {"tarball": f"https://npm.test/npm/{NAME}-{VERSION}.tgz", "integrity": integrity}
    packument = {"name": NAME, "dist-tags": {"latest": VERSION}, "versions": {VERSION: manifest | {"dist": dist}}}
    (folder / NAME).write_text(json.dumps(packument))


def cargo(folder: Path) -> None:
    (folder / "ke/yw").mkdir(parents=True, exist_ok=True)
    toml = f'[package]\nname = "{NAME}"\nversion = "{VERSION}"\nedition = "2021"\n'
    packed = tarball(f"{NAME}-{VERSION}", {"Cargo.toml": toml, "src/lib.rs": "pub const VALUE: u32 = 42;\n"})
    (folder / f"{NAME}-{VERSION}.crate").write_bytes(packed)
    (folder / "config.json").write_text(json.dumps({
        "dl": "https://cargo.test/cargo/{crate}-{version}.crate", "api": "https://cargo.test", "auth-required": True,
    }))
    entry = {"name": NAME, "vers": VERSION, "deps": [], "cksum": hashlib.sha256(packed).hexdigest(), "features": {},
             "yanked": False}
    (folder / "ke/yw" / NAME).write_text(json.dumps(entry) + "\n")
