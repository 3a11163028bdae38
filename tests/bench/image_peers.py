"""JPEG bytes to 224x224 RGB by other libraries than Pillow, in one thread each. Only the wanted one is imported.

None of them cuts off a border or keeps the ratio of the sides, and every kernel chosen here averages over what a pixel covers.
OpenCV's linear and cubic kernels do not: they would make rough pictures quickly.
"""

SIDE = 224


def vips():
    """libvips decodes at a scale by itself. Its cache of operations is off: each picture is worked on each time."""
    import pyvips
    pyvips.cache_set_max(0)

    def prepare(data):
        picture = pyvips.Image.thumbnail_buffer(data, SIDE, height=SIDE, size="force")
        if picture.interpretation != "srgb":
            picture = picture.colourspace("srgb")
        return picture.write_to_memory()
    return prepare


def opencv(reduced=False):
    """`reduced`: decoded at 1/2, 1/4 or 1/8 as long as twice the wanted pixels are left."""
    import cv2
    cv2.setNumThreads(1)

    def flag(data):
        if not reduced:
            return cv2.IMREAD_COLOR_RGB
        width, height = jpeg_size(data)
        for scale, flag in ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2)):
            if min(width, height) >= 2 * SIDE * scale:
                return flag
        return cv2.IMREAD_COLOR

    def prepare(data):
        import numpy
        mode = flag(data)
        picture = cv2.resize(cv2.imdecode(numpy.frombuffer(data, "uint8"), mode), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        return (picture if mode == cv2.IMREAD_COLOR_RGB else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)).tobytes()
    return prepare


def torchvision():
    """The kernel for bytes (no floats in between), with the rows of channels that the decoder leaves. It has no scaled decode."""
    import numpy
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import functional
    torch.set_num_threads(1)

    @torch.inference_mode()
    def prepare(data):
        raw = torch.from_numpy(numpy.frombuffer(bytearray(data), "uint8"))
        picture = decode_jpeg(raw, mode=ImageReadMode.RGB, apply_exif_orientation=True)
        picture = functional.resize(picture, [SIDE, SIDE], interpolation=functional.InterpolationMode.BICUBIC, antialias=True)
        return picture.permute(1, 2, 0).contiguous().numpy().tobytes()
    return prepare


def daft():
    """Image functions of frames: all pictures of one call are a column. The native runner takes the cores that it is given."""
    import daft
    from daft.functions import decode_image, resize
    daft.set_runner_native()

    def prepare(pictures):
        frame = daft.from_pydict({"bytes": pictures})
        frame = frame.select(resize(decode_image(frame["bytes"], mode="RGB"), SIDE, SIDE).alias("picture"))
        return [picture.tobytes() for picture in frame.to_pydict()["picture"]]
    return prepare


def jpeg_size(data):
    """Width and height from the frame header."""
    at = 2
    while at < len(data):
        marker, length = data[at + 1], int.from_bytes(data[at + 2:at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 7:at + 9], "big"), int.from_bytes(data[at + 5:at + 7], "big")
        at += 1 if marker == 0xFF else 2 + length
    raise ValueError("no frame header")


def one_by_one(prepare):
    return lambda pictures: [prepare(data) for data in pictures]


# Each makes a function from a list of encoded pictures to a list of samples.
PEERS = {"vips": lambda: one_by_one(vips()), "opencv": lambda: one_by_one(opencv()), "opencv-reduced": lambda: one_by_one(opencv(True)),
         "torchvision": lambda: one_by_one(torchvision()), "daft": daft}
LIBRARY = {"opencv": "opencv-python-headless", "opencv-reduced": "opencv-python-headless"}


def version(mode):
    """Of the library that does the work."""
    import importlib.metadata
    if mode == "vips":
        import pyvips
        return ".".join(str(pyvips.version(part)) for part in range(3))
    return importlib.metadata.version(LIBRARY.get(mode, mode))
