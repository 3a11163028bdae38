"""What evidence and benchmarks share: the binary, JSON of its commands, the machine, and the result file of evidence."""
import json
import os
import platform
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ["CARGO_TARGET_DIR"]) / "release" / "spawn"


def spawn(*args: str, check: bool = True, **environment: str) -> list[dict]:
    """Runs a command with --json and returns its objects."""
    done = subprocess.run([BINARY, *args, "--json"], capture_output=True, text=True, env=os.environ | environment)
    if check and done.returncode != 0:
        raise SystemExit(f"spawn {' '.join(args)} ended with {done.returncode}\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def sql(text: str) -> str:
    psql = Path(os.environ.get("SPAWN_PG_BIN", "")) / "psql"
    done = subprocess.run([psql, os.environ["DATABASE_URL"], "-qAt", "-c", text], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit() -> str:
    """The commit that was measured; ends in `-dirty` when files other than the results differ from it."""
    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    return (git("rev-parse", "HEAD") or "unknown") + ("-dirty" if changed else "")


def machine() -> dict:
    """The processor, with the numbers that tell apart those of one name, and how many cores this process may use (affinity and cgroup quota)."""
    first = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0]
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    cpu = told.get("model name", platform.machine())
    if "cpu family" in told:
        cpu += f" ({told['cpu family']}/{told['model']})"
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return {"cpu": cpu, "cores": cores}


def holds(op: str, got: float, want: float, reference: float | None) -> bool:
    if op == "within":
        return reference is not None and abs(got - reference) <= want
    return {"==": got == want, ">=": got >= want, "<=": got <= want}[op]


def write(area: str, got: dict[str, float], evidence: dict[str, str], reference: dict[str, float], not_run: dict[str, str]) -> None:
    """Compares with tests/evidence/<area>.toml and writes docs/evidence/<area>.json; fails if anything is missing or wrong."""
    wanted = tomllib.loads((ROOT / "tests" / "evidence" / f"{area}.toml").read_text())["check"]
    checks = []
    for check in wanted:
        name = check["id"]
        value = got.get(name)
        ok = value is not None and holds(check["op"], value, check["want"], reference.get(name))
        checks.append({"id": name, "want": f'{check["op"]} {check["want"]}', "got": value, "unit": check["unit"], "ok": ok,
                       "evidence": evidence.get(name, "")})
    ok = all(c["ok"] for c in checks if c["id"] not in not_run)
    report = {"area": area, "commit": commit(), "machine": machine(), "ok": ok and not not_run, "checks": checks,
              "not_run": [{"id": k, "why": v} for k, v in not_run.items()]}
    out = ROOT / "docs" / "evidence" / f"{area}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{out.relative_to(ROOT)}: {'ok' if report['ok'] else 'NOT OK'}")
    if not report["ok"]:
        raise SystemExit(1)
