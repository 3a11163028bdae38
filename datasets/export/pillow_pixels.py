"""What the original image pipeline hands to its model, by Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

RESIZE_SHORT, SIDE = 256, 224


def pixels(path: Path, scaled: bool = False) -> np.ndarray:
    """As torchvision's Resize(256, bicubic) and CenterCrop(224): the longer side is truncated, the offset rounded half to even.

    `scaled`: a JPEG is decoded at the smallest scale that leaves twice the pixels of the resized picture, as ours does, instead of in full.
    """
    with Image.open(path) as picture:
        if scaled:
            short = min(picture.size)
            picture.draft("RGB", tuple(2 * RESIZE_SHORT * side // short for side in picture.size))
        upright = ImageOps.exif_transpose(picture)
        if "transparency" in upright.info or upright.mode in ("LA", "RGBA"):
            upright = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
        upright = upright.convert("RGB")
    width, height = upright.size
    short = min(width, height)
    size = (RESIZE_SHORT * width // short, RESIZE_SHORT * height // short)
    left, top = round((size[0] - SIDE) / 2), round((size[1] - SIDE) / 2)
    return np.asarray(upright.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + SIDE, top + SIDE)))
