"""What every side-by-side benchmark shares: where things lie, one pinned core, rounds in alternation, the result file.

A benchmark is an executable file beside this one (`make bench AREA=<its name>`). It checks first that ours and the peer
yield the same output (`equality`), then runs both in turn (`alternate`) and writes `docs/benchmarks/<job>.json` (`write`).
Ratios are ours / peer of the same round: on a shared machine the load changes between rounds, rarely within one.
"""

import json
import os
import statistics
import subprocess
import sys
import venv
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "proof"))
from proof import ROOT, commit, machine  # noqa: E402

ROUNDS_MIN = 5


def _default_cache():
    if os.geteuid() == 0:
        return "/var/cache/spawn"
    return os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "spawn")


CACHE = Path(os.environ.get("SPAWN_CACHE") or _default_cache())
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


def build_example(example):
    """Builds an example binary of ours in release and returns its path."""
    subprocess.run(["cargo", "build", "--release", "-q", "--workspace", "--example", example], cwd=ROOT, check=True, stdout=sys.stderr)
    return TARGET / "release" / "examples" / example


def run(command, core=None, env=None):
    """Runs `command`, on one core if `core` is given (an index into the allowed ones). Its last line of stdout is JSON.

    Returns that object; `cpu_seconds` and `peak_rss_bytes` of the whole process are added under `process`.
    """
    allowed = sorted(os.sched_getaffinity(0))

    def pin():
        if core is not None:
            os.sched_setaffinity(0, {allowed[core % len(allowed)]})

    child = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True, preexec_fn=pin,
                             env={**os.environ, **(env or {})}, cwd=ROOT)
    out = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"{command[0]} ended with {child.returncode}: {out[-2000:]}")
    answer = json.loads(out.strip().splitlines()[-1])
    answer["process"] = {"cpu_seconds": usage.ru_utime + usage.ru_stime,
                         "peak_rss_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)}
    return answer


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


def write(job, unit, peer, peer_version, peer_config, pairs, rate, items, target_ratio, equal, extra=None):
    """Writes `docs/benchmarks/<job>.json` and prints it.

    `pairs` as from `alternate`; `rate(answer)` gives the figure of one run in `unit`, higher is better; `items` is how
    many items one of our runs worked on, for the CPU seconds of each. `extra` adds fields, it never replaces one.
    """
    rounds = [{"ours": rate(mine), "peer": rate(theirs)} for mine, theirs in pairs]
    ratios = [entry["ours"] / entry["peer"] for entry in rounds]
    ratio = statistics.median(ratios)
    result = {
        **(extra or {}),
        "job": job, "unit": unit, "commit": commit(), "machine": machine(),
        "peer": peer, "peer_version": peer_version, "peer_config": peer_config,
        "rounds": [{k: round(v, 3) for k, v in entry.items()} for entry in rounds],
        "ours_median": round(statistics.median(entry["ours"] for entry in rounds), 3),
        "peer_median": round(statistics.median(entry["peer"] for entry in rounds), 3),
        "ratio_median": round(ratio, 3), "ratio_min": round(min(ratios), 3), "ratio_max": round(max(ratios), 3),
        "target_ratio": target_ratio, "met": ratio >= target_ratio, "equality": equal,
        # The same by CPU seconds per unit of work: on a shared machine it moves less than the clock.
        "cpu_ratio_median": round(statistics.median(
            (theirs["process"]["cpu_seconds"] / (rate(theirs) * theirs["seconds"]))
            / (mine["process"]["cpu_seconds"] / (rate(mine) * mine["seconds"])) for mine, theirs in pairs), 3)
        if all("seconds" in answer for pair in pairs for answer in pair) else None,
        "cpu_seconds_per_item": statistics.median(m["process"]["cpu_seconds"] for m, _ in pairs) / items,
        "peak_rss_bytes": max(m["process"]["peak_rss_bytes"] for m, _ in pairs),
    }
    path = ROOT / "docs" / "benchmarks" / f"{job}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    say(f"{job}: {result['ours_median']} against {result['peer_median']} {unit}, ratio {result['ratio_median']} "
        f"(target {target_ratio}: {'met' if result['met'] else 'missed'}) -> {path.relative_to(ROOT)}")
    print(json.dumps(result))
    return result
