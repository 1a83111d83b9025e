"""Tutorials: pages whose Python blocks are run when the site is built, and shown with what they print and plot.

Each is offered as a notebook too, with the same outputs. If a page needs packages that the site does not install, run
`python -m benchmarks.site.tutorials docs/tutorials/NAME.md`, which writes a notebook beside it. The site shows the outputs of
that notebook.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import pyplot

from benchmarks.pages import write
from benchmarks.site.sources import ROOT

FOLDER = ROOT / "docs" / "tutorials"
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.DOTALL | re.MULTILINE)


class Cell(NamedTuple):
    """A block of a page: its text, whether it is a program, and what the program printed and plotted."""

    source: str
    is_code: bool
    printed: str = ""
    plots: tuple[bytes, ...] = ()


def pages() -> list[Path]:
    """The tutorials."""
    return sorted(FOLDER.glob("*.md"))


def cells(page: Path) -> list[Cell]:
    """The cells of a page: with the outputs of the notebook beside it, or run now if there is none."""
    record = page.with_suffix(".ipynb")
    return recorded(page.read_text(), record.read_text()) if record.exists() else run(page.read_text())


def recorded(text: str, record: str) -> list[Cell]:
    """The cells of a page with the outputs that a notebook holds. ValueError if the programs differ from the notebook's."""
    parts = BLOCK.split(text)
    ran = [cell for cell in json.loads(record)["cells"] if cell["cell_type"] == "code"]
    if [cell["source"] for cell in ran] != [program.strip() for program in parts[1::2]]:
        raise ValueError(
            "a tutorial has changed since it was recorded: run `python -m benchmarks.site.tutorials` with its path"
        )
    outputs = iter(ran)
    return [_recorded(part, next(outputs)["outputs"]) if i % 2 else Cell(part, False) for i, part in enumerate(parts)]


def _recorded(program: str, outputs: list[dict[str, Any]]) -> Cell:
    printed = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    plots = [output["data"]["image/png"] for output in outputs if output["output_type"] == "display_data"]
    return Cell(program, True, printed, tuple(map(base64.b64decode, plots)))


def run(text: str) -> list[Cell]:
    """The cells of a page, each program with its output. They share a namespace and a folder that is deleted."""
    parts = BLOCK.split(text)
    namespace: dict[str, Any] = {"__name__": "tutorial"}
    with _quiet_folder():
        return [_ran(part, namespace) if i % 2 else Cell(part, False) for i, part in enumerate(parts)]


def _ran(program: str, namespace: dict[str, Any]) -> Cell:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(compile(program, "tutorial", "exec"), namespace)
    figures = [pyplot.figure(number) for number in pyplot.get_fignums()]
    plots = tuple(_png(figure) for figure in figures)
    pyplot.close("all")
    return Cell(program, True, shown.getvalue(), plots)


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130, bbox_inches="tight", metadata={"Software": None})
    return file.getvalue()


@contextlib.contextmanager
def _quiet_folder() -> Iterator[None]:
    """Work in a folder that is deleted, without open figures and the warnings of other packages about themselves."""
    before = Path.cwd()
    pyplot.switch_backend("agg")
    pyplot.close("all")
    level = logging.root.manager.disable
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)
            logging.disable(level)


def files(name: str, cells: list[Cell]) -> dict[str, str | bytes]:
    """{path in the site: content} of the page with its outputs, of its plots and of its notebook."""
    plots = {f"tutorials/{name}-{i}-{j}.png": plot for i, cell in enumerate(cells) for j, plot in enumerate(cell.plots)}
    title, _, text = "".join(_shown(cell, name, i) for i, cell in enumerate(cells)).partition("\n")
    page = f"{title}\n\n[The same as a notebook]({name}.ipynb), with its outputs.\n{text}"
    return {f"tutorials/{name}.md": page, f"tutorials/{name}.ipynb": notebook(cells)} | plots


def _shown(cell: Cell, name: str, number: int) -> str:
    if not cell.is_code:
        return cell.source
    output = f"\n```text\n{cell.printed}```\n" if cell.printed else ""
    images = "".join(f"\n![The plot that this block draws]({name}-{number}-{i}.png)\n" for i in range(len(cell.plots)))
    return f"```python\n{cell.source}```\n{output}{images}"


def notebook(cells: list[Cell]) -> str:
    """The cells as a notebook of Jupyter."""
    written = [_cell(cell, i) for i, cell in enumerate(cells) if cell.source.strip()]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return json.dumps({"cells": written, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}, indent=1)


def _cell(cell: Cell, number: int) -> dict[str, Any]:
    common = {"id": f"cell-{number}", "metadata": {}, "source": cell.source.strip()}
    if not cell.is_code:
        return {"cell_type": "markdown", **common}
    outputs: list[dict[str, Any]] = []
    if cell.printed:
        outputs.append({"output_type": "stream", "name": "stdout", "text": cell.printed})
    for plot in cell.plots:
        data = {"image/png": base64.b64encode(plot).decode()}
        outputs.append({"output_type": "display_data", "metadata": {}, "data": data})
    return {"cell_type": "code", **common, "execution_count": None, "outputs": outputs}


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        write(path.with_suffix(".ipynb"), notebook(run(path.read_text())) + "\n")
