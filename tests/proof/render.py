"""Writes docs/benchmarks.md and docs/evidence.md from the result files."""
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def benchmarks() -> str:
    lines = ["# Benchmarks", "", "Made by `make bench`; each row is a file in `docs/benchmarks/`. Ratios are ours / peer of the same round.", "",
             "| job | unit | ours | peer | peer is | ratio (min - max) | target | met |", "|---|---|---|---|---|---|---|---|"]
    for path in sorted((ROOT / "docs" / "benchmarks").glob("*.json")):
        b = json.loads(path.read_text())
        lines.append(f"| {b['job']} | {b['unit']} | {b['ours_median']:.1f} | {b['peer_median']:.1f} | {b['peer']} {b['peer_version']} | "
                     f"{b['ratio_median']:.2f} ({b['ratio_min']:.2f} - {b['ratio_max']:.2f}) | {b['target_ratio']} | {'yes' if b['met'] else 'no'} |")
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
