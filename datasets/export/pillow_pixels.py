"""What the original image pipeline hands to its model, by Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

RESIZE_SHORT, SIDE = 256, 224


def pixels(path: Path, scaled: bool = False) -> np.ndarray:
    """As torchvision's Resize(256, bicubic) and CenterCrop(224): the longer side is truncated, the offset rounded half to even.

    `scaled`: a JPEG is decoded at the smallest scale that leaves twice the pixels of the resized picture, as ours does, instead of in full.
    As in `thumbnail`, the last row and column of a scaled picture then count for the part of them that the full one has.
    """
    box = None
    with Image.open(path) as picture:
        full, short = picture.size, min(picture.size)
        if scaled and (drafted := picture.draft("RGB", tuple(2 * RESIZE_SHORT * side // short for side in full))):
            box = drafted[1]
        upright = ImageOps.exif_transpose(picture)
        if upright.size != picture.size:
            full, box = full[::-1], None
        if "transparency" in upright.info or upright.mode in ("LA", "RGBA"):
            upright = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
        upright = upright.convert("RGB")
    width, height = full
    size = (RESIZE_SHORT * width // short, RESIZE_SHORT * height // short)
    left, top = round((size[0] - SIDE) / 2), round((size[1] - SIDE) / 2)
    return np.asarray(upright.resize(size, Image.Resampling.BICUBIC, box).crop((left, top, left + SIDE, top + SIDE)))
