"""Files to vectors in Parquet by Ray Data or Daft, with the preparation and the model of the plain Python worker.

`python_frames.py ENGINE SETTINGS`, ENGINE being ray or daft, SETTINGS what `python_models.embedder` takes and: paths, processes, out. Each
process prepares and infers its own batches: handing arrays from one process to the next costs more than it gains on a CPU. Prints one JSON
line as `python_worker.py` does, with an entry for each process; a batch is done when it has its vectors.
"""

import json
import math
import os
import sys
import tempfile
import time
import uuid
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
import python_models  # noqa: E402


class Embed:
    """One process's model. Notes in a file of its own below `notes` how that was loaded, and then each batch."""

    def __init__(self, settings, notes):
        self.embed = python_models.embedder(settings)
        self.notes = os.path.join(notes, uuid.uuid4().hex)
        self.note(self.embed.variant)
        self.begun = None

    def note(self, value):
        with open(self.notes, "a") as notes:
            notes.write(json.dumps(value) + "\n")

    def rows(self, values):
        begun = self.begun or time.time()
        rows = self.embed(values)
        self.begun = time.time()
        self.note([begun, self.begun, len(rows)])
        return [vector.tolist() for vector, _ in rows], [label for _, label in rows]


def ray(settings, notes):
    import ray
    ray.init(num_cpus=settings["processes"], include_dashboard=False, log_to_driver=False, logging_level="ERROR")

    class Batches(Embed):
        def __call__(self, batch):
            vectors, labels = self.rows([bytes(value) for value in batch["bytes"]])
            return {"path": batch["path"], "embedding": vectors, "label": labels}

    # Reading and writing share the cores of the models: a file takes no time worth a core. A block for each batch, or one process would be
    # given them all.
    frame = ray.data.read_binary_files(settings["paths"], include_paths=True, num_cpus=0.01, concurrency=1,
                                       override_num_blocks=math.ceil(len(settings["paths"]) / settings["batch"]))
    frame.map_batches(Batches, batch_size=settings["batch"], concurrency=settings["processes"], num_cpus=0.9,
                      fn_constructor_args=(settings, notes)).write_parquet(settings["out"], ray_remote_args={"num_cpus": 0.01})
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
        told = [[json.loads(line) for line in note.read_text().splitlines()] for note in Path(notes).iterdir()]
    print(json.dumps({"processes": [{"model": model, "spans": spans} for model, *spans in told]}))


if __name__ == "__main__":
    main()
