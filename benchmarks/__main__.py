"""`make bench`: every benchmark in turn, then one table.

`python -m benchmarks [--json FOLDER] [--quick]`
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import latency, throughput
from benchmarks.figures import Result, show
from benchmarks.stage import Stage


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure Headwater on this machine."
    )
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="write a file per benchmark there")
    parser.add_argument(
        "--quick", action="store_true", help="short runs: a check that it works, not a measurement"
    )
    options = parser.parse_args()
    results: list[Result] = []
    with Stage.open() as stage:
        for module in (throughput, latency):
            print(f"{module.NAME} ...", flush=True)
            result = module.measure(stage, quick=options.quick)
            if options.json:
                result.write(options.json / f"{module.NAME}.json")
            results.append(result)
    show(results)


if __name__ == "__main__":
    main()
