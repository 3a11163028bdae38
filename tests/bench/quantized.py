"""Models in fewer bits, made for a while beside those they are made of."""
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import common

MODELS = Path(os.environ.get("SPAWN_MODELS") or common.CACHE / "models")
COSINE_MIN = 0.99
BATCH_MAX = 512


class Refused(Exception):
    """`spawn models quantize` does not make that one."""


@contextlib.contextmanager
def quantized(model, dtype, media=None):
    """A folder with the model and the one made of it, and what the command tells of that. `media`: what int8 convolutions look at."""
    with tempfile.TemporaryDirectory(dir=MODELS.parent) as folder:
        shutil.copytree(MODELS / model, Path(folder, model), copy_function=os.link)
        command = [common.TARGET / "release" / "spawn", "models", "quantize", model, "--to", dtype, "--json", "--cosine-min", str(COSINE_MIN)]
        done = subprocess.run([*command, *(["--calibrate", media] if media else [])], env={**os.environ, "SPAWN_MODELS": folder},
                              capture_output=True, text=True)
        if done.returncode != 0:
            raise Refused(done.stderr.strip().splitlines()[-1])
        yield Path(folder), json.loads(done.stdout)


@contextlib.contextmanager
def converted(model, dtype):
    """A folder with the model in another number type and with batches of up to `BATCH_MAX`, as its manifest then says. `spawn models quantize` writes the
    same type, but proves it on the CPU, and few of them compute in f16. Loading proves it, on the device that it is loaded on."""
    with tempfile.TemporaryDirectory(dir=MODELS.parent) as folder:
        made = Path(folder, f"{model}-{dtype}")
        shutil.copytree(MODELS / model, made, copy_function=os.link)
        manifest = made / "model.toml"
        text = re.sub(r'^name = ".*"', f'name = "{made.name}"', manifest.read_text(), count=1, flags=re.M)
        text = re.sub(r'^dtype = "f32"', f'dtype = "{dtype}"', text, count=1, flags=re.M)
        text = re.sub(r"^batch_max = .*", f"batch_max = {BATCH_MAX}", text, flags=re.M)
        if dtype != "f32":
            text = re.sub(r"^cosine_min = .*", f"cosine_min = {COSINE_MIN}", text, flags=re.M)
        # It is a link to the other's.
        manifest.unlink()
        manifest.write_text(text)
        yield made
