"""EfficientNet-Lite0: pixels to a 1280-dimensional embedding and the probabilities of 1,000 ImageNet classes."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

NAME = "efficientnet-lite0"
SIDE = 224
MANIFEST = """\
# Written by datasets/export. The version is the BLAKE3 of this folder's files, so it is not in here.
name = "efficientnet-lite0"
modality = "image"
format = "torchscript"
# Number type of weights and computation.
dtype = "f32"
# Elements of the embedding: global average of the last feature map, scaled to length 1.
dimension = 1280
normalised = true
# One picture is one chunk: nothing to pool.
pooled = "none"
# Labels kept per picture, best first.
labels_top = 5

{source}

# Shape without the batch axis: rows, columns, RGB. Normalisation ((x - 127) / 128) happens inside.
[[inputs]]
name = "image"
dtype = "u8"
shape = [224, 224, 3]
pad = 0

[outputs]
order = ["embedding", "scores"]

# The evaluation transform of EfficientNet-Lite: 224 / (224 + 32) of the shorter side, from the centre, bicubic.
[preparation]
width = 224
height = 224
fit = "crop"
resize_short = 256
filter = "bicubic"

[limits]
# Pictures of one call. More gains nothing on a CPU: caches are full by 8.
batch_max = 32
# Pictures of a call times rows of a picture.
padded_cost_max = 7168

[golden]
count = 4
cosine_min = 0.99999
"""


class Pixels(nn.Module):
    """The package's network between u8 pixels and probabilities."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        # Rows, columns, colours permuted *is* channels_last: nothing is moved.
        x = (image.permute(0, 3, 1, 2).to(torch.float32) - 127.0) * (1.0 / 128.0)
        features = self.network.extract_features(x).mean((2, 3))
        return F.normalize(features, dim=1), F.softmax(self.network._fc(features), dim=1)


def build(source: dict[str, Any], packages: list[Path], out: Path) -> None:
    weights, code = packages
    sys.path.insert(0, str(code))
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name(NAME)
    state = torch.load(next(weights.glob("*/models/*.pth")), map_location="cpu", weights_only=True)
    network.load_state_dict(state, strict=True)
    module = Pixels(network.eval().to(memory_format=torch.channels_last)).eval()
    examples = [{"image": torch.from_numpy(pixels(path))} for path in sorted((common.GOLDEN / NAME).glob("*.png"))]
    with torch.no_grad(), warnings.catch_warnings():
        # The package divides sizes with `math.ceil`, which are constants here.
        warnings.simplefilter("ignore")
        script = torch.jit.freeze(torch.jit.trace(module, examples[0]["image"][None].expand(2, -1, -1, -1)))
    tensors = common.golden(NAME, script, examples, ["embedding", "scores"])
    labels = (common.DATASETS / "labels" / "imagenet-1k.txt").read_bytes()
    manifest = MANIFEST.format(source=common.source_table(source))
    common.write_folder(out, NAME, manifest, script, tensors, {"labels.txt": labels})


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        array = np.array(picture.convert("RGB"))
    if array.shape != (SIDE, SIDE, 3):
        raise SystemExit(f"error: {path} is {array.shape[1]}x{array.shape[0]}, {SIDE}x{SIDE} is wanted")
    return array
