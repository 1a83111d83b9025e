"""`python -m benchmarks.paper figures` or `theorems` recomputes Figures 1-5 or Theorems 1-3 of arXiv 2303.00633.

Each has a module and a Markdown template of the same name. In a module, `rows` measures, `plot` draws the figure, and
`finding` says whether the rows show the claim. METHODS names the methods of Table 1 that a figure trains. The template states
measurement, claim and finding. Its `{name}` stands for a constant of the module or for a value that `finding` returns.
"""
