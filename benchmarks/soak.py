"""Whether a worker's memory stays bounded under a steady load.

`python -m benchmarks.soak [--minutes 60] [--rate 1000] [--json FILE] [--quick]`

RSS is sampled all the time and is the runs of `rss_mb`, so that it can be plotted. `rss_growth` is the slope of a straight line
through the second half: what the first half fills (RocksDB's memtables and cache, the heap) counts as warm-up.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from benchmarks import figures
from benchmarks.figures import Figure, Result
from benchmarks.load import Load
from benchmarks.memory import RSS_EVERY_S, RssWatch
from benchmarks.stage import Stage

NAME = "soak"
POINTS = 240
"""Samples that are kept, the median of each stretch."""
SLICE_S = 30.0


def measure(minutes: float = 60.0, rate: float = 1000.0, *, quick: bool = False) -> Result:
    if quick:
        minutes, rate = 0.4, min(rate, 1000.0)
    with Stage.open() as stage:
        worker = stage.headwater(NAME)
        try:
            before = stage.log_end("recommendations")
            stage.send("events", stage.workload.events(1, 0))
            stage.wait(lambda: stage.log_end("recommendations") > before, worker, "the first recommendation")
            rss, sent, slowest = RssWatch(worker), 1, 0.0
            seconds = minutes * 60
            for start_s in np.arange(0.0, seconds, SLICE_S):
                n = int(min(SLICE_S, seconds - start_s) * rate)
                waits = stage.loop.run(Load(stage.brokers, rate).run(stage.workload.events(n, sent)))
                sent, slowest = sent + n, max(slowest, *waits)
                print(f"{sent:,} events, RSS {rss.samples[-1]:.0f} MB", flush=True)
            samples = rss.end()
        finally:
            worker.kill()
    found = {
        "rss_mb": Figure(max(samples), "MB", None, thinned(samples)),
        "rss_growth": Figure(slope_per_h(samples[len(samples) // 2 :]), "MB/h"),
        "events": Figure(float(sent), "events"),
        "slowest_ms": Figure(slowest * 1000, "ms"),
    }
    return Result.here(f"{NAME}-{minutes:g}", found)


def thinned(samples: Sequence[float]) -> list[float]:
    """At most POINTS medians of equally long stretches."""
    edges = np.linspace(0, len(samples), min(POINTS, len(samples)) + 1).astype(int).tolist()
    return [float(np.median(samples[start:stop])) for start, stop in itertools.pairwise(edges)]


def slope_per_h(samples: Sequence[float]) -> float:
    """Of a straight line through samples that are RSS_EVERY_S apart."""
    hours = np.arange(len(samples)) * RSS_EVERY_S / 3600
    return float(np.polyfit(hours, samples, 1)[0]) if len(samples) > 1 else 0.0


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=1000.0, help="events per second")
    options = parser.parse_args()
    figures.report(measure(options.minutes, options.rate, quick=options.quick), options)


if __name__ == "__main__":
    main()
