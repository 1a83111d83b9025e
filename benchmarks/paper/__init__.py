"""Figures 1-5 and Theorems 1-3 of arXiv 2303.00633, recomputed: `python -m benchmarks.paper figures` or `theorems`.

Each is a module and a page of the same name. The page states the measurement, the claim and the finding, with the module's
constants and the numbers of `finding` in braces. `rows` measures, `plot` draws a figure, `line` makes the row of a theorem's
table for each value of KEYS, and `finding` says from the rows whether the claim shows in them. METHODS are the rows of Table 1
that a figure trains.
"""
