"""Figures 1-5 and Theorems 1-3 of arXiv 2303.00633, recomputed: `python -m benchmarks.paper figures` or `theorems`.

Each is a module and a page of the same name. `rows` measures, `plot` draws a figure, and `finding` says from the rows whether
the claim shows in them. The page states the measurement, the claim and the finding, with the constants of the module and what
`finding` returns in the place of their names in braces. METHODS are the rows of Table 1 that a figure trains.
"""
