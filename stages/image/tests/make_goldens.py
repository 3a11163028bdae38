#!/usr/bin/env python3
"""Makes the pictures in `fixtures/` and what Pillow makes of them: `fixtures/goldens.json` and `fixtures/golden-*.png`.

    python -m venv V && V/bin/pip install pillow==13.0.0 numpy scikit-learn && V/bin/python make_goldens.py

A reference is decoded at the scale that the stage uses (Pillow's `draft`), because libjpeg's scaled pictures differ from
full ones by far more than resizers differ from each other. Where samples jump between black and white, filters with
negative weights are not compared: they overshoot, and both libraries clip between two passes, in different order. Run again only when cases are added: the encoders decide the
bytes, so another version of Pillow makes other (equally good) pictures.
"""

import io
import json
import struct
import sys
import zlib
from pathlib import Path

import numpy
import PIL
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

HERE = Path(__file__).parent / "fixtures"
WHITE = (255, 255, 255)
FILTERS = {"nearest": Image.NEAREST, "box": Image.BOX, "bilinear": Image.BILINEAR, "hamming": Image.HAMMING,
           "bicubic": Image.BICUBIC, "lanczos3": Image.LANCZOS}
CASES = []


# ---------------------------------------------------------------- pictures

def photo(width, height):
    return Image.fromarray(load_sample_image("china.jpg")).resize((width, height), Image.LANCZOS)


def save(name, picture, **options):
    picture.save(HERE / name, **options)
    return name


def write(name, data):
    (HERE / name).write_bytes(data)
    return name


def orientation(value):
    exif = Image.Exif()
    exif[274] = value
    return exif


def disc(picture, soft=True):
    """Alpha that falls off from the centre: opaque, half transparent and transparent pixels."""
    width, height = picture.size
    y, x = numpy.mgrid[0:height, 0:width]
    distance = numpy.hypot((x - width / 2) / width, (y - height / 2) / height)
    alpha = numpy.clip((0.55 - distance) * 700, 0, 255).astype("uint8")
    return Image.fromarray(alpha if soft else (alpha > 127).astype("uint8") * 255)


def png16(width, height, rows, color_type):
    """A PNG with 16 bits a sample, which Pillow cannot write for RGB."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")


def wide(picture):
    """8-bit samples spread over 16 bits, with noise in the low byte."""
    values = numpy.asarray(picture).astype("uint32") * 257
    noise = numpy.random.default_rng(7).integers(-120, 120, values.shape)
    return numpy.clip(values + noise, 0, 65535).astype("uint16")


# -------------------------------------------------------------- references

def upright_rgb(name, background, draft=None):
    with Image.open(HERE / name) as picture:
        if draft:
            picture.draft("L" if picture.mode == "L" else "RGB", draft)
        picture.load()
        if picture.mode.startswith("I;16"):
            picture = Image.fromarray(((numpy.asarray(picture).astype("uint32") + 128) // 257).astype("uint8"))
        turned = ImageOps.exif_transpose(picture)
        if "A" in turned.mode or "transparency" in picture.info or picture.format == "GIF":
            turned = Image.alpha_composite(Image.new("RGBA", turned.size, (*background, 255)), turned.convert("RGBA"))
        return turned.convert("RGB")


def reference(name, config, denominator):
    background = tuple(config.get("background", WHITE))
    filter_ = FILTERS[config.get("filter", "bicubic")]
    with Image.open(HERE / name) as picture:
        stored = picture.size
    draft = (stored[0] // denominator, stored[1] // denominator) if denominator > 1 else None
    source = upright_rgb(name, background, draft)
    with Image.open(HERE / name) as picture:
        full = ImageOps.exif_transpose(picture).size
    assert source.size == tuple(-(-side // denominator) for side in full), (name, source.size, full, denominator)
    size = (config["width"], config["height"])

    def resize(to, box):
        return source.resize(to, filter_, box=tuple(edge / denominator for edge in box))

    everything = (0, 0, *full)
    fit = config.get("fit", "crop")
    if fit == "stretch":
        return resize(size, everything)
    if fit == "pad":
        inner = ImageOps.contain(Image.new("1", full), size).size
        out = Image.new("RGB", size, background)
        offset = tuple(round((outer - length) * 0.5) for outer, length in zip(size, inner))
        out.paste(resize(inner, everything), offset)
        return out
    if "resize_short" in config:  # torchvision: Resize, then CenterCrop
        short = config["resize_short"]
        long = int(short * max(full) / min(full))
        resized = (short, long) if full[0] <= full[1] else (long, short)
        left, top = (int(round((outer - length) / 2.0)) for outer, length in zip(resized, size))
        return resize(resized, everything).crop((left, top, left + size[0], top + size[1]))
    ratio = size[0] / size[1]
    part = (ratio * full[1], full[1]) if full[0] / full[1] >= ratio else (full[0], full[0] / ratio)
    left, top = ((outer - length) * 0.5 for outer, length in zip(full, part))
    return resize(size, (left, top, left + part[0], top + part[1]))


def case(name, flags=(), denominator=1, tolerance=1, media_type=None, **config):
    config = {"width": 32, "height": 24, **config}
    index = len(CASES)
    golden = f"golden-{index:02d}.png"
    reference(name, config, denominator).save(HERE / golden, optimize=True)
    with Image.open(HERE / name) as picture:
        media_type = media_type or Image.MIME[picture.format]
        width, height = ImageOps.exif_transpose(picture).size
    CASES.append({"file": name, "config": config, "golden": golden, "tolerance": tolerance, "denominator": denominator,
                  "media_type": media_type, "width": width, "height": height, "flags": sorted(flags)})


def jpegs():
    big = save("photo.jpg", photo(400, 266), quality=60)
    for name in FILTERS:
        # Lanczos overshoots even here.
        case(big, filter=name, fit="stretch", denominator=1 if name == "nearest" else 4)
    case(big, width=60, height=40, fit="stretch", denominator=2)
    case(big, width=24, height=16, fit="stretch", denominator=8)
    case(big, denominator=4)
    case(big, width=30, height=40, denominator=2)
    case(big, width=32, height=32, resize_short=36, denominator=2)
    case(big, width=31, height=25, resize_short=37, filter="bilinear", denominator=2)
    case(big, width=40, height=40, fit="pad", background=[10, 200, 30], denominator=4)
    case(save("progressive.jpg", photo(400, 266), quality=50, progressive=True), denominator=4)
    case(save("grey.jpg", photo(200, 133).convert("L"), quality=70), flags=["grey"], denominator=2)
    case(save("sampling-444.jpg", photo(121, 93), quality=75, subsampling=0))
    case(save("odd.jpg", photo(151, 203), quality=70, subsampling=2), denominator=2)
    ink = save("cmyk.jpg", photo(96, 64).convert("CMYK"), quality=75)
    case(ink, flags=["cmyk"])
    # The same file, declared as YCCK by the transform byte of its Adobe marker: wrong colours, right arithmetic.
    data = bytearray((HERE / ink).read_bytes())
    data[data.index(b"Adobe") + 11] = 2
    case(write("ycck.jpg", bytes(data)), flags=["cmyk"], filter="bilinear")
    with_junk = bytearray((HERE / "odd.jpg").read_bytes())
    with_junk[-2:-2] = b"forty bytes that do not belong in here.."
    case(write("junk-before-end.jpg", bytes(with_junk)), flags=["decoder_warning"], denominator=2)


def orientations():
    plain = photo(96, 64)
    # What is stored is the upright picture, changed so that the tag turns it back.
    back = {1: None, 2: Image.FLIP_LEFT_RIGHT, 3: Image.ROTATE_180, 4: Image.FLIP_TOP_BOTTOM, 5: Image.TRANSPOSE,
            6: Image.ROTATE_90, 7: Image.TRANSVERSE, 8: Image.ROTATE_270}
    for value, how in back.items():
        stored = plain.transpose(how) if how is not None else plain
        name = save(f"orientation-{value}.jpg", stored, quality=75, subsampling=0, exif=orientation(value))
        flags = ["exif_applied"] if value > 1 else []
        case(name, width=31, height=20, flags=flags)
    case("orientation-3.jpg", width=100, height=50, fit="stretch", filter="bilinear", flags=["exif_applied", "upscaled"])
    stored = plain.transpose(Image.ROTATE_90)
    case(save("orientation-6.png", stored, exif=orientation(6), optimize=True), flags=["exif_applied"], width=31, height=20)
    case(save("orientation-6.webp", stored, exif=orientation(6), quality=80), flags=["exif_applied"], width=31, height=20)
    small = photo(48, 32).transpose(Image.ROTATE_90)
    case(save("orientation-6.tif", small, exif=orientation(6), compression="tiff_lzw"), flags=["exif_applied"],
         width=21, height=14)
    case("orientation-6.jpg", flags=["exif_applied"], width=20, height=31, resize_short=40)
    case("orientation-5.jpg", flags=["exif_applied"], width=33, height=33, fit="pad", background=[0, 0, 0])
    case("orientation-8.jpg", flags=["exif_applied"], width=27, height=22, resize_short=29)


def others():
    small = photo(72, 48)
    grey = small.convert("L")
    case(save("rgb.png", small, optimize=True))
    rgba = small.copy()
    rgba.putalpha(disc(small))
    case(save("rgba.png", rgba, optimize=True), flags=["alpha_flattened"])
    case("rgba.png", flags=["alpha_flattened"], background=[200, 30, 90])
    opaque = small.copy()
    opaque.putalpha(255)
    case(save("opaque.png", opaque, optimize=True))
    grey_alpha = grey.copy()
    grey_alpha.putalpha(disc(small))
    case(save("grey-alpha.png", grey_alpha, optimize=True), flags=["alpha_flattened", "grey"], background=[0, 90, 200])
    palette = small.quantize(32)
    palette.info["transparency"] = 3
    case(save("palette.png", palette, transparency=3, optimize=True), flags=["alpha_flattened", "palette"])
    case(save("one-bit.png", grey.convert("1")), flags=["grey"], filter="bilinear")
    case(write("rgb16.png", png16(40, 30, wide(photo(40, 30)), 2)), flags=["sixteen_bit"], tolerance=2)
    case(write("grey16.png", png16(40, 30, wide(photo(40, 30).convert("L")), 0)), flags=["grey", "sixteen_bit"])
    frames = [small.quantize(32), small.rotate(90).quantize(32), small.rotate(180).quantize(32)]
    frames[0].save(HERE / "animated.gif", save_all=True, append_images=frames[1:], duration=80, loop=0)
    case("animated.gif", flags=["animated", "palette"])
    case(save("still.gif", small.quantize(32)), flags=["palette"])
    small.save(HERE / "animated.webp", save_all=True, append_images=[small.rotate(90)], duration=80, quality=60)
    case("animated.webp", flags=["animated"])
    case(save("lossy.webp", small, quality=75))
    case(save("lossless.webp", small, lossless=True))
    case(save("alpha.webp", rgba, lossless=True, exact=True), flags=["alpha_flattened"])
    case(save("rgb.bmp", photo(60, 40)), media_type="image/bmp", filter="bilinear")
    case(save("palette.bmp", small.quantize(64)), flags=["palette"], media_type="image/bmp")
    case(save("lzw.tif", small, compression="tiff_lzw"))
    case(save("deflate-grey.tif", grey, compression="tiff_adobe_deflate"), flags=["grey"])
    case(save("cmyk.tif", photo(48, 32).convert("CMYK"), compression="tiff_lzw"), flags=["cmyk"], tolerance=2)


def broken():
    for name in ["photo.jpg", "progressive.jpg", "rgb.png", "lossy.webp", "lossless.webp", "still.gif", "rgb.bmp",
                 "lzw.tif"]:
        data = (HERE / name).read_bytes()
        write("truncated-" + name, data[: len(data) * 6 // 10] if not name.endswith("tif") else data[: len(data) // 2])
    write("no-end.jpg", (HERE / "odd.jpg").read_bytes()[:-2])
    data = bytearray((HERE / "odd.jpg").read_bytes())
    middle = len(data) * 2 // 3
    data[middle:middle + 2] = b"\xff\xdb"  # a segment where none may be
    write("damaged.jpg", bytes(data))

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    write("bomb.png", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10_000_000), 9))
          + chunk(b"IEND", b""))
    canvas = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    write("bomb.gif", canvas + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x02\x44\x01\x00;")
    big = io.BytesIO()
    Image.new("L", (16000, 16)).save(big, "JPEG", quality=10)
    data = bytearray(big.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at:at + 2] = struct.pack(">H", 16000)  # 16,000 rows are declared, 16 are there
    write("bomb.jpg", bytes(data))


def main():
    if PIL.__version__ != "13.0.0":
        print(f"made with Pillow 13.0.0, this is {PIL.__version__}: pictures will differ", file=sys.stderr)
    HERE.mkdir(exist_ok=True)
    for old in [*HERE.glob("golden-*.png")]:
        old.unlink()
    jpegs()
    orientations()
    others()
    broken()
    lines = ",\n".join(json.dumps(entry) for entry in CASES)
    (HERE / "goldens.json").write_text(f'{{"pillow": "{PIL.__version__}", "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
