"""The quality benchmark: on any log, with default settings, how good are the lists? `python -m benchmarks.quality --help`."""
