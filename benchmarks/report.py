"""The results of a folder as Markdown tables and as pictures.

`python -m benchmarks.report FOLDER`: reads FOLDER/*.json, writes FOLDER/*.png and FOLDER/table.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Result, goal, number

TABLE = "table.md"


def markdown(results: Sequence[Result]) -> str:
    """The figures with a goal, all figures, then where each was measured."""
    lines = [
        "## Goals",
        "",
        *_table(results, only_goals=True),
        "",
        "## All figures",
        "",
        *_table(results),
        "",
    ]
    places: dict[str, list[str]] = {}
    for result in results:
        machine = ", ".join(f"{label} {value}" for label, value in result.machine.items() if label != "load")
        places.setdefault(f"{machine}, commit {result.commit or 'unknown'}", []).append(result.name)
    lines += [f"{', '.join(names)}: {place}." for place, names in places.items()]
    return "\n".join(lines) + "\n"


def _table(results: Sequence[Result], *, only_goals: bool = False) -> list[str]:
    lines = ["| benchmark | figure | value | goal | met |", "| --- | --- | ---: | ---: | --- |"]
    for result in results:
        for key, figure in result.figures.items():
            bound, met = goal(figure)
            if bound or not only_goals:
                value = f"{number(figure.value)} {figure.unit}"
                lines.append(f"| {result.name} | `{key}` | {value} | {bound} | {met} |")
    return lines


def write(folder: Path) -> list[Path]:
    """The table and, where there is matplotlib, the pictures; raises FileNotFoundError where there are no results."""
    results = [Result.read(path) for path in sorted(folder.glob("*.json"))]
    if not results:
        raise FileNotFoundError(f"{folder} holds no results (*.json): run `make bench` first")
    table = folder / TABLE
    table.write_text(markdown(results), encoding="utf-8")
    try:
        from benchmarks import plots

        return [table, *plots.draw(results, folder)]
    except ModuleNotFoundError as error:
        print(f"no pictures: {error.name} is not installed (pip install 'headwater[bench]')")
        return [table]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    for path in write(parser.parse_args().folder):
        print(path)


if __name__ == "__main__":
    main()
