"""Writes docs/benchmarks.md, docs/stages.md, docs/growth.md, docs/profile.md and docs/evidence.md from the result files.

Says which results of benchmarks lack what each has to tell (`fields.py`): those are older than that list, and want to be measured again."""
import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True
from fields import lacking  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def results() -> dict[str, dict]:
    """The benchmarks' files by name."""
    return {path.name: json.loads(path.read_text()) for path in sorted((ROOT / "docs" / "benchmarks").glob("*.json"))}


def short(commit: str) -> str:
    """Twelve digits, and whether files were changed."""
    return commit[:12] + ("-dirty" if commit.endswith("-dirty") else "")


def on(machine: dict) -> str:
    return f"{machine['cores']} cores of {machine['cpu']}"


def benchmarks() -> str:
    lines = ["# Benchmarks", "", "Made by `make bench`; each row is a file in `docs/benchmarks/`. Ratios are ours / peer of the same round.", "",
             "| job | unit | ours | peer | peer is | ratio (min - max) | target | met | machine | commit |", "|---" * 10 + "|"]
    not_run = []
    for b in results().values():
        lines.append(f"| {b['job']} | {b['unit']} | {b['ours_median']:.1f} | {b['peer_median']:.1f} | {b['peer']} {b['peer_version']} | "
                     f"{b['ratio_median']:.2f} ({b['ratio_min']:.2f} - {b['ratio_max']:.2f}) | {b['target_ratio']} | {'yes' if b['met'] else 'no'} | "
                     f"{b.get('gpu') or on(b['machine'])} | {short(b['commit'])} |")
        not_run += [f"\nNot run in {b['job']}: {entry['id']} ({entry['why']})" for entry in b.get("not_run", [])]
    return "\n".join([*lines, *not_run]) + "\n"


def read(name: str) -> dict | None:
    path = ROOT / "docs" / name / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def table(rows: list[dict]) -> list[str]:
    """The keys of the first row are the columns; what a later row lacks was not measured."""
    names = list(rows[0])

    def cell(value) -> str:
        return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
    return ["| " + " | ".join(names) + " |", "|---" * len(names) + "|", *("| " + " | ".join(cell(row.get(n)) for n in names) + " |" for row in rows)]


def stages(found: dict) -> str:
    lines = ["# Stages", "", f"Made by `make bench AREA=stages` at {found['commit']} on {found['machine']['cores']} cores. Medians of criterion, with intervals of 95 %."
             " Files are the smallest, the middle and the largest sample of a format.", ""]
    rates = []
    for suite in found["suites"]:
        seconds = suite["nanoseconds"] / 1e9
        low, high = (f"{n / 1e3:.1f}" for n in suite["interval"])
        rate = f"{suite['amount'] / seconds / 1e6:.1f} MB/s" if suite["of"] == "bytes" else f"{suite['amount'] / seconds:,.0f} items/s"
        rates.append({"suite": suite["suite"], "microseconds": f"{seconds * 1e6:.1f}", "interval": f"{low} - {high}", "rate": rate})
    lines += [*table(rates), "", "## Allocations", "",
              "For an item, by all threads, after three runs that let kept buffers grow. Copies into buffers that are kept are not in here: docs/performance.md"
              " names them. `write/made` is what the test itself makes and is part of the other rows of `write`. libtorch's own memory is not in here.", ""]
    counts = [{"suite": a["name"], "bytes of an item": a["item_bytes"], "allocations": f"{a['allocations']:.1f}", "bytes allocated": f"{a['allocated_bytes']:,.0f}"}
              for a in found["allocations"]]
    return "\n".join([*lines, *table(counts)]) + "\n"


def profile(found: dict) -> str:
    lines = ["# Where the time goes", "", f"Made by `make bench AREA=profile` at {short(found['commit'])} on {on(found['machine'])}: functions by their share of the samples of CPU time."]
    for name, rows in found["profiles"].items():
        told = [{"%": f"{row['percent']:.1f}", "library": row["library"], "function": row["function"].replace("|", "\\|")} for row in rows["functions"]]
        libraries = ", ".join(f"{library} {percent} %" for library, percent in rows["libraries"].items())
        lines += ["", f"## {name[0].upper()}{name[1:]}", "", f"By library: {libraries}.", "", *(table(told) if told else ["No function has 1 %."])]
    return "\n".join(lines) + "\n"


def growth(found: dict) -> str:
    lines = ["# How cost grows", "", "Made by `make bench AREA=growth`; `tests/bench/growth` says how.", "",
             *(["![Plots of the tables below](growth/growth.svg)"] if (ROOT / "docs" / "growth" / "growth.svg").exists() else [])]
    for part, rows in found.items():
        if isinstance(rows, list):
            lines += ["", f"## {part.capitalize()}", "", f"At {short(found['commits'][part])} on {on(found['machines'][part])}.", "", *table(rows)]
    return "\n".join(lines) + "\n"


def evidence() -> str:
    lines = ["# Evidence", "", "Made by `make evidence AREA=..`; each section is a file in `docs/evidence/`."]
    files = sorted((ROOT / "docs" / "evidence").glob("*.json"))
    if not files:
        lines += ["", "None has been run yet."]
    for path in files:
        e = json.loads(path.read_text())
        lines += ["", f"## {e['area']}: {'ok' if e['ok'] else 'not ok'} ({e['commit']}, {e['machine']['cores']} cores)", "",
                  "| check | want | got | unit | ok |", "|---|---|---|---|---|"]
        lines += [f"| {c['id']} | {c['want']} | {c['got']} | {c['unit']} | {'yes' if c['ok'] else 'no'} |" for c in e["checks"]]
        lines += [f"\nNot run: {n['id']} ({n['why']})" for n in e["not_run"]]
    return "\n".join(lines) + "\n"


(ROOT / "docs" / "benchmarks.md").write_text(benchmarks())
(ROOT / "docs" / "evidence.md").write_text(evidence())
for name, page in (("stages", stages), ("growth", growth), ("profile", profile)):
    if found := read(name):
        (ROOT / "docs" / f"{name}.md").write_text(page(found))
for name, b in results().items():
    if fields := lacking(b):
        print(f"docs/benchmarks/{name}: no good {', '.join(fields)}; measure it again", file=sys.stderr)
