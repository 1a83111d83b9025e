"""Figures 1-5 and Theorems 1-3 of arXiv 2303.00633, recomputed: `python -m benchmarks.paper figures` or `theorems`.

Each module is one of them: `rows` measures, `plot` draws a figure from its rows, and `text` says from them what was
measured and whether the paper's claim shows in them.
"""
