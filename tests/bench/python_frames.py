"""Files to vectors in Parquet by Ray Data or Daft, with the preparation and the model of the plain Python worker.

`python_frames.py ENGINE SETTINGS`, ENGINE being ray or daft, SETTINGS as of `python_worker.py` and: paths, processes, out. Each process
prepares and infers its own batches: handing arrays from one process to the next costs more than it gains on a CPU. Prints one JSON line:
when each batch had its vectors, and how many items it held.
"""

import json
import os
import sys
import tempfile
import time
import uuid
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
import python_worker  # noqa: E402


class Embed:
    """One process's model. Notes each batch in a file of its own below `notes`."""

    def __init__(self, settings, notes):
        self.embed = python_worker.embedder(settings)
        self.notes = os.path.join(notes, uuid.uuid4().hex)

    def rows(self, values):
        rows = self.embed(values)
        with open(self.notes, "a") as notes:
            notes.write(f"{time.time()} {len(rows)}\n")
        return [vector for vector, _ in rows], [label for _, label in rows]


def ray(settings, notes):
    import ray
    ray.init(num_cpus=settings["processes"], include_dashboard=False, log_to_driver=False, logging_level="ERROR")

    class Batches(Embed):
        def __call__(self, batch):
            vectors, labels = self.rows([bytes(value) for value in batch["bytes"]])
            return {"path": batch["path"], "embedding": vectors, "label": labels}

    # Reading shares the cores of the models: a file takes no time worth a core.
    frame = ray.data.read_binary_files(settings["paths"], include_paths=True, num_cpus=0.01, concurrency=1)
    frame.map_batches(Batches, batch_size=settings["batch"], concurrency=settings["processes"], num_cpus=0.9,
                      fn_constructor_args=(settings, notes)).write_parquet(settings["out"])
    ray.shutdown()


def daft(settings, notes):
    import daft
    daft.set_runner_native()
    shape = daft.DataType.struct({"embedding": daft.DataType.list(daft.DataType.float32()), "label": daft.DataType.string()})

    @daft.cls(max_concurrency=settings["processes"], use_process=settings["processes"] > 1)
    class Batches(Embed):
        def __init__(self):
            super().__init__(settings, notes)

        @daft.method.batch(return_dtype=shape, batch_size=settings["batch"])
        def __call__(self, values):
            vectors, labels = self.rows(values.to_pylist())
            return [{"embedding": vector, "label": label} for vector, label in zip(vectors, labels, strict=True)]

    frame = daft.from_pydict({"path": settings["paths"]})
    frame = frame.with_column("bytes", frame["path"].download()).into_batches(settings["batch"])
    frame.select("path", Batches()(frame["bytes"]).alias("made")).write_parquet(settings["out"])


def main():
    settings = json.loads(sys.argv[2])
    # Their processes import this folder's files too.
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent)
    with tempfile.TemporaryDirectory() as notes:
        {"ray": ray, "daft": daft}[sys.argv[1]](settings, notes)
        commits = [line.split() for note in Path(notes).iterdir() for line in note.read_text().splitlines()]
    print(json.dumps({"commits": [[float(at), int(count)] for at, count in commits]}))


if __name__ == "__main__":
    main()
