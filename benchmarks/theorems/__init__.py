"""Theorems 1-3 of arXiv 2303.00633, recomputed: `python -m benchmarks.theorems` does all, or those that are named.

Each module here is one theorem: `SUBJECT` and `STATEMENT` say what is proved and what is shown, `rows` measures, and `table`
and `finding` say from the rows what was measured and whether the theorem shows in it.
"""
