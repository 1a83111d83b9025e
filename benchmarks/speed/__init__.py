"""How fast the objectives are, in time and memory, beside what people use now: `python -m benchmarks.speed`."""
