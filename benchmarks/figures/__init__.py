"""Figures 1-5 of arXiv 2303.00633, recomputed: `python -m benchmarks.figures` draws all, or those that are named.

Each module here is one figure: `rows` measures, `plot` draws the rows, and `caption` says from the rows whether the paper's
claim shows in them.
"""
