"""`make bench`: every benchmark in turn, each a process of its own, then a table and pictures.

`python -m benchmarks [--out docs/plots] [--only throughput,latency] [--quick]`
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import report
from benchmarks.figures import Result, show
from benchmarks.workloads import WORKLOADS

ROOT = Path(__file__).resolve().parents[1]
OUT = Path("docs/plots")
RUNS: list[tuple[str, str, list[str]]] = [
    *((f"throughput-{name}", "throughput", ["--workload", name]) for name in WORKLOADS),
    *((f"latency-{rate}", "latency", ["--rate", str(rate)]) for rate in (100, 1000, 5000)),
    *((f"recovery-{users}", "recovery", ["--users", str(users)]) for users in (100_000, 1_000_000)),
    ("memory-20000", "memory", ["--users", "20000"]),
    ("memory-1000000", "memory", ["--users", "1000000", "--events-per-user", "2"]),
    ("growth", "growth", []),
    ("soak", "soak", ["--minutes", "60"]),
]
"""File, module, arguments."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure Headwater on this machine."
    )
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help=f"where results go ({OUT})")
    parser.add_argument("--only", help="some of these: " + ", ".join(name for name, _, _ in RUNS))
    parser.add_argument(
        "--quick", action="store_true", help="short runs: a check that it works, not a measurement"
    )
    options = parser.parse_args()
    failed = []
    for name, module, arguments in RUNS:
        if options.only and not any(name.startswith(each) for each in options.only.split(",")):
            continue
        if importlib.util.find_spec(f"benchmarks.{module}") is None:
            print(f"{name} is left out: there is no benchmarks/{module}.py", flush=True)
            continue
        started = time.monotonic()
        print(f"{name} ...", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
        command += ["--json", str(options.out / f"{name}.json"), *(["--quick"] if options.quick else [])]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(name)
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    written = report.write(options.out)
    show([Result.read(path) for path in sorted(options.out.glob("*.json"))])
    print("written:", ", ".join(map(str, written)))
    if failed:
        raise SystemExit(f"without a result: {', '.join(failed)}")


if __name__ == "__main__":
    main()
