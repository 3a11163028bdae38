"""Makes golden/reference_figures.json: python datasets/export/figures.py --data DIR --models DIR

What the original libraries, with their own preparation, say about the demo data, by file; and what the exported models say when the
same files are prepared as model.toml asks, in Python. Tests hold the program's results against the first. Needs
requirements-reference.txt.
"""

from __future__ import annotations

import argparse
import csv
import json
import tomllib
from pathlib import Path

import librosa
import numpy as np
import torch
from pillow_pixels import pixels
from reference import GOLDEN, ImageOriginal, text_original

SENTENCES = [
    ("The cat is asleep on the sofa.", "A kitten naps on the couch."),
    ("How do I reset my password?", "Please enter your password, followed by the pound key."),
    ("The stock market fell sharply today.", "Shares dropped on Wall Street this afternoon."),
    ("She plays the violin in an orchestra.", "The recipe needs two eggs and a cup of flour."),
    ("The train to Berlin leaves at nine.", "The train to Berlin leaves at nine."),
    ("Le musée est fermé le lundi.", "The museum is closed on Mondays."),
]


def neighbours(vectors: np.ndarray) -> np.ndarray:
    """Index of the nearest other row of each row, all of length 1."""
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    return similarity.argmax(1)


def precision_at_1(nearest: np.ndarray, groups: list[str]) -> float:
    """Share of the items of which the nearest other one is of the same group, among those with company. "" is no group."""
    asked = [i for i, group in enumerate(groups) if group and groups.count(group) > 1]
    return round(float(np.mean([groups[nearest[i]] == groups[i] for i in asked])), 4)


def object_of(name: str) -> str:
    """Photos of one radio share a name up to the last underscore."""
    return name.rsplit("_", 1)[0] if name.startswith("images/radio-") else ""


def images(data: Path, names: list[str], models: Path) -> dict[str, object]:
    original, module = ImageOriginal(), torch.jit.load(str(models / "efficientnet-lite0" / "model.pt"))
    labels = (models / "efficientnet-lite0" / "labels.txt").read_text().splitlines()
    theirs, ours, tops, same_label = [], [], [], 0
    for name in names:
        prepared = pixels(data / name)
        embedding, scores = original(prepared)
        with torch.no_grad():
            our_embedding, our_scores = (t[0].numpy() for t in module(torch.from_numpy(prepared.copy())[None]))
        theirs.append(embedding)
        ours.append(our_embedding)
        tops.append((labels[scores.argmax()], round(float(scores.max()), 4)))
        same_label += int(scores.argmax() == our_scores.argmax())
    objects = [object_of(name) for name in names]
    nearest, our_nearest = neighbours(np.stack(theirs)), neighbours(np.stack(ours))
    return {
        "pipeline": "Pillow (EXIF orientation, white behind transparency, resize 256, crop 224, bicubic), efficientnet_lite_pytorch",
        "same_object_precision_at_1": precision_at_1(nearest, objects),
        "exported": {
            "same_object_precision_at_1": precision_at_1(our_nearest, objects),
            "top_label_agreement": round(same_label / len(names), 4),
            "neighbour_agreement": round(float((nearest == our_nearest).mean()), 4),
        },
        "files": {
            name: {"object": objects[i], "label": tops[i][0], "score": tops[i][1], "neighbour": names[nearest[i]]}
            for i, name in enumerate(names)
        },
    }


def windows(samples: np.ndarray, rule: dict[str, float]) -> torch.Tensor:
    """The rule of [preparation]: gain, zeros at both ends, windows, the last one only if it is covered."""
    window, hop, context = rule["window_samples"], rule["hop_samples"], rule["context_samples"]
    gain = 10 ** (rule["gain_rms_dbfs"] / 20) / max(float(np.sqrt(np.mean(samples.astype(np.float64) ** 2))), 1e-9)
    padded = np.pad((samples * max(gain, 1.0)).astype(np.float32), context)
    last = max(0, -(-(len(padded) - window) // hop))
    count = last + (last == 0 or len(padded) - last * hop >= rule["coverage_min"] * window)
    padded = np.pad(padded, (0, last * hop + window))
    return torch.from_numpy(np.stack([padded[i * hop : i * hop + window] for i in range(count)]))


def voices(data: Path, speakers: dict[str, str], models: Path) -> dict[str, object]:
    from resemblyzer import VoiceEncoder
    from resemblyzer.audio import normalize_volume, preprocess_wav

    encoder, folder = VoiceEncoder("cpu", verbose=False), models / "resemblyzer"
    module = torch.jit.load(str(folder / "model.pt"))
    rule = tomllib.loads((folder / "model.toml").read_text())["preparation"]
    trimmed, whole, ours = [], [], []
    for name in speakers:
        trimmed.append(encoder.embed_utterance(preprocess_wav(data / name)))
        wave, rate = librosa.load(data / name, sr=None)
        samples = librosa.resample(wave, orig_sr=rate, target_sr=16_000)
        whole.append(encoder.embed_utterance(normalize_volume(samples, -30, increase_only=True)))
        with torch.no_grad():
            mean = module(windows(samples, rule)).mean(0).numpy()
        ours.append(mean / np.linalg.norm(mean))
    names, groups = list(speakers), list(speakers.values())
    nearest = neighbours(np.stack(trimmed))
    trim, exact = (np.sum(np.stack(whole) * np.stack(other), 1) for other in (trimmed, ours))
    return {
        "pipeline": "Resemblyzer 0.1.4: preprocess_wav (resampling, gain, webrtcvad trim), embed_utterance",
        "same_speaker_precision_at_1": precision_at_1(nearest, groups),
        "original_without_trim": {
            "same_speaker_precision_at_1": precision_at_1(neighbours(np.stack(whole)), groups),
            "cosine_to_original": spread(trim),
        },
        "exported": {
            "same_speaker_precision_at_1": precision_at_1(neighbours(np.stack(ours)), groups),
            "cosine_to_original_without_trim": spread(exact),
            "cosine_to_original": spread(np.sum(np.stack(trimmed) * np.stack(ours), 1)),
        },
        "files": {
            name: {"speaker": groups[i], "neighbour": names[nearest[i]], "neighbour_speaker": groups[nearest[i]]}
            for i, name in enumerate(names)
        },
    }


def spread(cosines: np.ndarray) -> dict[str, float]:
    least, low, median = np.quantile(cosines, [0.0, 0.05, 0.5])
    return {"min": round(float(least), 7), "p05": round(float(low), 7), "median": round(float(median), 7)}


def texts() -> dict[str, object]:
    model = text_original()
    pairs = [(a, b, float(np.dot(model.encode(a), model.encode(b)))) for a, b in SENTENCES]
    return {"pipeline": "sentence-transformers", "pairs": [{"a": a, "b": b, "cosine": round(cosine, 6)} for a, b, cosine in pairs]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Make golden/reference_figures.json.")
    parser.add_argument("--data", type=Path, required=True, help="folder that fetch.py filled")
    parser.add_argument("--models", type=Path, required=True, help="folder that export.py filled")
    arguments = parser.parse_args()
    with open(arguments.data / "index.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if not row["path"].startswith("broken/")]
    pictures = [row["path"] for row in rows if row["modality"] == "image"]
    speakers = {row["path"]: row["speaker"] for row in rows if row["modality"] == "audio"}
    figures = {
        "image": images(arguments.data, pictures, arguments.models),
        "audio": voices(arguments.data, speakers, arguments.models),
        "text": texts(),
    }
    text = json.dumps(figures, indent=1, ensure_ascii=False) + "\n"
    (GOLDEN / "reference_figures.json").write_text(text, encoding="utf-8")
    for modality, figure in figures.items():
        print(modality, json.dumps({k: v for k, v in figure.items() if k != "files"}, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
