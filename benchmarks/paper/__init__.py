"""Figures 1-5 and Theorems 1-3 of arXiv 2303.00633, recomputed: `python -m benchmarks.paper figures` or `theorems`.

Each module is one of them, and its `rows` measures. Of a figure, `plot` draws the rows and `text` says what was measured and
whether the paper's claim shows in them; of a theorem STATEMENT, a table with a `line` for each value of KEYS, and `finding` do.
"""
