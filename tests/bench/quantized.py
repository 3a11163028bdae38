"""Models in fewer bits, made for a while beside those they are made of."""
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import common

MODELS = Path(os.environ.get("SPAWN_MODELS") or common.CACHE / "models")
COSINE_MIN = 0.99


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
