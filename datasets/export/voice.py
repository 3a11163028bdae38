"""Resemblyzer: a window of speech to a 256-dimensional speaker embedding, the mel filterbank included.

The original computes one spectrogram of the whole clip, with zeros before and after it, and cuts that. Here the clip is cut, each
window with half an analysis frame of its neighbours at both ends: the same frames come out, and windows need nothing of each other.
"""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

NAME = "resemblyzer"
RATE = 16_000
FRAME, STEP, MELS = 400, 160, 40
WINDOW = 159 * STEP + FRAME
MANIFEST = """\
# Written by datasets/export. The version is the BLAKE3 of this folder's files, so it is not in here.
name = "resemblyzer"
modality = "audio"
format = "torchscript"
# Number type of weights and computation.
dtype = "f32"
# Elements of the embedding, scaled to length 1.
dimension = 256
normalised = true
# A clip's vector is the mean of its windows' vectors, scaled to length 1, as in the original.
pooled = "mean"

{source}

# Shape without the batch axis: samples from -1 to 1.
[[inputs]]
name = "audio"
dtype = "f32"
shape = [25840]
pad = 0.0

[outputs]
order = ["embedding"]

[preparation]
# Hertz.
sample_rate = 16000
# 160 frames of 25 ms, 10 ms apart: 159 * 160 + 400 samples.
window_samples = 25840
# 77 frames: 1.3 windows a second.
hop_samples = 12320
# Half a frame: the first frame is centred on the first sample.
context_samples = 200
# The original drops a last window of which less than 0.75 * 25600 samples lie in the clip: (19200 + 400) / 25840, rounded down so
# that the limit itself is kept.
coverage_min = 0.7585139
# Quieter clips are amplified to this, louder ones left alone.
gain_rms_dbfs = -30.0
# A quarter of an hour.
windows_max = 1200

[limits]
# Windows of one call.
batch_max = 64
# Windows of a call times samples of a window.
padded_cost_max = 1653760

[golden]
count = 4
cosine_min = 0.99999
"""


class Speaker(nn.Module):
    """Power spectrogram, mel bands, three LSTM layers, the last state projected."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(MELS, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        self.register_buffer("window", torch.hann_window(FRAME))
        self.register_buffer("bands", torch.from_numpy(mel_bands()))

    def forward(self, audio: Tensor) -> Tensor:
        frames = audio.unfold(1, 400, 160) * self.window
        spectrum = torch.view_as_real(torch.fft.rfft(frames))
        mels = torch.matmul(spectrum.square().sum(3), self.bands)
        state = self.lstm(mels)[1][0][-1]
        return F.normalize(F.relu(self.linear(state)), dim=1)


def mel_bands() -> np.ndarray:
    """Triangles on Slaney's scale (linear to 1 kHz, logarithmic above), each of unit area: [bins, bands].

    Slaney, Auditory Toolbox, 1998; the original has them from librosa.
    """
    corner, per_mel, log_step = 1000.0, 200.0 / 3.0, np.log(6.4) / 27.0
    corner_mel = corner / per_mel

    def to_hertz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < corner_mel, mel * per_mel, corner * np.exp(log_step * (mel - corner_mel)))

    top = corner_mel + np.log(RATE / 2 / corner) / log_step
    edges = to_hertz(np.linspace(0.0, top, MELS + 2))
    bins = np.linspace(0.0, RATE / 2, FRAME // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    bands = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (edges[2:] - edges[:-2]))
    return bands.astype(np.float32)


def build(source: dict[str, Any], packages: list[Path], out: Path) -> None:
    module = Speaker()
    checkpoint = torch.load(packages[0] / "resemblyzer" / "pretrained.pt", map_location="cpu", weights_only=True)
    weights = {key: value for key, value in checkpoint["model_state"].items() if key.startswith(("lstm.", "linear."))}
    absent = module.load_state_dict(weights, strict=False).missing_keys
    if set(absent) != {"window", "bands"}:
        raise SystemExit(f"error: the package lacks {absent}")
    script = torch.jit.freeze(torch.jit.script(module.eval()))
    paths = sorted((common.GOLDEN / NAME).glob("*.wav"))
    tensors = common.golden(NAME, script, [{"audio": torch.from_numpy(samples(p))} for p in paths], ["embedding"])
    common.write_folder(out, NAME, MANIFEST.format(source=common.source_table(source)), script, tensors, {})


def samples(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        form = (file.getframerate(), file.getnchannels(), file.getsampwidth(), file.getnframes())
        if form != (RATE, 1, 2, WINDOW):
            raise SystemExit(f"error: {path} has (Hz, channels, bytes, samples) {form}, {(RATE, 1, 2, WINDOW)} is wanted")
        return np.frombuffer(file.readframes(WINDOW), dtype="<i2").astype(np.float32) / 32768.0
