"""Time and memory of the objectives beside those of other libraries: `python -m benchmarks.speed`."""
