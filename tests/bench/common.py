"""What every side-by-side benchmark shares: where things lie, one pinned core, rounds in alternation, the result file.

A benchmark is an executable file beside this one (`make bench AREA=<its name>`). It checks first that ours and the peer
yield the same output (`equality`), then runs both in turn (`alternate`) and writes `docs/benchmarks/<job>.json` (`write`, or `publish`
for those that measure no process from its start to its end). Ratios are ours / peer of the same round: on a shared machine the load
changes between rounds, rarely within one.
"""

import csv
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
import venv
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "proof"))
from fields import ROUNDS_MIN, lacking  # noqa: E402
from proof import ROOT, commit, machine, spawn  # noqa: E402

RESULTS = ROOT / "docs" / "benchmarks"
GOLDEN_COSINE_MIN = 1 - 1e-5


def _default_cache():
    if os.geteuid() == 0:
        return "/var/cache/spawn"
    return os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "spawn")


CACHE = Path(os.environ.get("SPAWN_CACHE") or _default_cache())
PYTHON = CACHE / "venv" / "bin" / "python"
DATA = Path(os.environ.get("SPAWN_DATA") or CACHE / "data")
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or CACHE / "target")


def say(text):
    """Talk goes to stderr; stdout is for data."""
    print(text, file=sys.stderr, flush=True)


def enter_venv(packages):
    """Runs the calling script again under `$SPAWN_CACHE/bench-venv` with `packages` ("name==version") installed there."""
    home = CACHE / "bench-venv"
    python = home / "bin" / "python"
    if not python.exists():
        say(f"making {home}")
        venv.create(home, with_pip=True)
    probe = "import sys, importlib.metadata as m\nfor p in sys.argv[1:]:\n n, _, v = p.partition('==')\n" \
            " n = n.partition('[')[0]\n if v and m.version(n) != v: raise SystemExit(1)\n m.version(n)"
    if subprocess.run([python, "-c", probe, *packages], stderr=subprocess.DEVNULL).returncode != 0:
        say("installing " + " ".join(packages))
        subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages], check=True)
    if Path(sys.prefix).resolve() != home.resolve():
        os.execv(python, [str(python), *sys.argv])


def torch_python(packages):
    """A python that sees the torch of the project's own environment and `packages` ("name==version") beside it."""
    home = CACHE / "bench-torch-venv"
    python = home / "bin" / "python"
    if not python.exists():
        say(f"making {home}")
        venv.create(home, with_pip=True)
        site = next((home / "lib").glob("python*/site-packages"))
        theirs = next((CACHE / "venv" / "lib").glob("python*/site-packages"))
        (site / "torch-of-the-project.pth").write_text(f"{theirs}\n")
    subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages], check=True, stdout=sys.stderr)
    return python


def aoti_package(model, threads):
    """The AOTInductor package of a model's folder for so many threads, made where it is not there yet; see `aoti`."""
    version = hashlib.sha256((model / "model.pt").read_bytes()).hexdigest()[:12]
    torch = next((CACHE / "venv" / "lib").glob("python*/site-packages/torch-*.dist-info")).name.split("-")[1].removesuffix(".dist")
    path = CACHE / "bench" / f"{model.name}-{version}-{torch}-{threads}.pt2"
    if not path.exists():
        say(f"compiling {path.name}")
        path.parent.mkdir(exist_ok=True)
        subprocess.run([PYTHON, Path(__file__).parent / "aoti", "--make", model.name, path, str(threads)], check=True, stdout=sys.stderr)
    return path


def good(modality):
    """The samples that are not broken, in the order of the index."""
    with open(DATA / "index.csv", newline="") as index:
        return [DATA / row["path"] for row in csv.DictReader(index) if row["modality"] == modality and "broken" not in Path(row["path"]).parts]


def build_example(example):
    """Builds an example binary of ours in release and returns its path. A machine without cargo has to have it already."""
    path = TARGET / "release" / "examples" / example
    if shutil.which("cargo") or not path.exists():
        subprocess.run(["cargo", "build", "--release", "-q", "--workspace", "--example", example], cwd=ROOT, check=True, stdout=sys.stderr)
    return path


def spent(pid):
    """CPU seconds and the most memory of a process that runs, so far. Its memory is 0 once it has ended and was not waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    peak = next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")), 0)
    return {"cpu_seconds": (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), "peak_rss_bytes": peak}


def run(command, core=None, env=None):
    """Runs `command`, on one core if `core` is given (an index into the allowed ones). Its last line of stdout is JSON.

    Returns that object; `seconds`, `cpu_seconds` and `peak_rss_bytes` of the whole process are added under `process`.
    """
    allowed = sorted(os.sched_getaffinity(0))

    def pin():
        if core is not None:
            os.sched_setaffinity(0, {allowed[core % len(allowed)]})

    started = time.monotonic()
    child = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True, preexec_fn=pin,
                             env={**os.environ, **(env or {})}, cwd=ROOT)
    peak, ended = [0], threading.Event()

    def watch():
        # What the kernel tells of a child that has ended includes the memory of this process, of which it was a copy at first.
        while not ended.wait(0.02):
            peak[0] = max(peak[0], spent(child.pid)["peak_rss_bytes"])
    watcher = threading.Thread(target=watch)
    watcher.start()
    out = child.stdout.read()
    ended.set()
    watcher.join()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"{command[0]} ended with {child.returncode}: {out[-2000:]}")
    answer = json.loads(out.strip().splitlines()[-1])
    answer["process"] = {"seconds": time.monotonic() - started, "cpu_seconds": usage.ru_utime + usage.ru_stime,
                         "peak_rss_bytes": answer.get("peak_rss_bytes") or peak[0]}
    return answer


def line(modality, records, *settings):
    """One `spawn bench line`, as `alternate` takes it. Every record has to become a result, with a clean audit."""
    told = spawn("bench", "line", "--modality", modality, "--records", str(records), "--data", str(DATA), "--quiet",
                 *(part for setting in settings for part in ("--set", setting)))[0]
    if told["results"] != records or not told["audit"]["ok"]:
        raise SystemExit(f"{told['results']} of {records} records became results; the audit: {told['audit']}")
    return {**told, "cpu_seconds_per_item": sum(stage["cpu_seconds_per_item"] for stage in told["stages"]),
            "process": {"peak_rss_bytes": told["peak_rss_bytes"]}}


def alternate(ours, peer, rounds=ROUNDS_MIN):
    """Calls `ours()` and `peer()` in turn, each round the other one first. Each returns a `run` object.

    One unmeasured round goes first, so that files are in the page cache and code is loaded for both.
    """
    ours(), peer()
    pairs = []
    for index in range(max(rounds, ROUNDS_MIN)):
        if index % 2 == 0:
            mine, theirs = ours(), peer()
        else:
            theirs = peer()
            mine = ours()
        pairs.append((mine, theirs))
        say(f"round {index + 1}: done")
    return pairs


def equality(metric, value, limit, passed):
    """The gate before any timing. Raises when the outputs differ: a faster wrong answer is not measured."""
    gate = {"metric": metric, "value": value, "limit": limit, "passed": bool(passed)}
    if not passed:
        raise SystemExit(f"outputs differ, nothing was timed: {gate}")
    return gate


def golden(*sides, limit=GOLDEN_COSINE_MIN):
    """The gate of those that run models, before any timing: each side checks the golden vectors when it loads, and tells the least cosine."""
    worst = min(side()["golden_cosine_min"] for side in sides)
    return equality("least cosine to the golden vectors, both sides", worst, limit, worst >= limit)


def higher(ours, peer):
    return ours / peer


def lower(ours, peer):
    return peer / ours


def compared(rounds, ratio=higher):
    """The fields that follow from `rounds` of `ours` and `peer`; `ratio` is above 1 where ours is better."""
    ratios = [ratio(entry["ours"], entry["peer"]) for entry in rounds]
    return {"rounds": [{side: round(figure, 3) for side, figure in entry.items()} for entry in rounds],
            "ours_median": round(statistics.median(entry["ours"] for entry in rounds), 3),
            "peer_median": round(statistics.median(entry["peer"] for entry in rounds), 3),
            "ratio_median": round(statistics.median(ratios), 3), "ratio_min": round(min(ratios), 3), "ratio_max": round(max(ratios), 3)}


def publish(result, folder=RESULTS):
    """Writes `<job>.json` with the commit and the machine, and prints it. One that lacks a field of `fields.py` is refused."""
    result = {**result, "commit": commit(), "machine": machine()}
    if missing := lacking(result):
        raise SystemExit(f"{result['job']}: nothing was written, there is no good {', '.join(missing)}: {result}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['job']}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    say(f"{result['job']}: {result['ours_median']} against {result['peer_median']} {result['unit']}, ratio {result['ratio_median']} "
        f"(target {result['target_ratio']}: {'met' if result['met'] else 'missed'}) -> {path}")
    print(json.dumps(result))


def write(job, unit, peer, peer_version, peer_config, pairs, rate, items, target_ratio, equal, extra=None, folder=RESULTS):
    """Writes the result of `pairs`, as from `alternate`.

    `rate(answer)` gives the figure of one run in `unit`, higher is better. CPU seconds per item are those that a run tells of its work
    (`cpu_seconds_per_item`), or else those of its whole process over `items`, as many as one of our runs worked on. The two sides' are
    compared only where both tell them: those of a process count what it imports and loads. `extra` adds fields, it never replaces one.
    """
    by_work = [[side.get("cpu_seconds_per_item") for side in pair] for pair in pairs]
    result = {
        **(extra or {}), "job": job, "unit": unit, "peer": peer, "peer_version": peer_version, "peer_config": peer_config,
        **compared([{"ours": rate(mine), "peer": rate(theirs)} for mine, theirs in pairs]),
        "target_ratio": target_ratio, "equality": equal,
        "cpu_seconds_per_item": statistics.median(told or mine["process"]["cpu_seconds"] / items for (told, _), (mine, _) in zip(by_work, pairs)),
        "peak_rss_bytes": max(mine["process"]["peak_rss_bytes"] for mine, _ in pairs),
    }
    if all(mine and theirs for mine, theirs in by_work):
        # On a shared machine it moves less than the clock.
        result["cpu_ratio_median"] = round(statistics.median(theirs / mine for mine, theirs in by_work), 3)
    publish({**result, "met": result["ratio_median"] >= target_ratio}, folder)
