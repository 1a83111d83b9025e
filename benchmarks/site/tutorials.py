"""Run the Python blocks of the tutorials when the site is built, and show their printed text and their plots.

The site offers each tutorial as a notebook too. If a tutorial needs packages that the site does not install, run
`python -m benchmarks.site.tutorials docs/tutorials/NAME.md`. It writes a notebook beside the page, and the site shows the
outputs of that notebook.
"""

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
from typing import Any

from matplotlib import pyplot

from benchmarks.pages import write
from benchmarks.site.sources import ROOT

FOLDER = ROOT / "docs" / "tutorials"
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.DOTALL | re.MULTILINE)


#: a cell of a notebook, as Jupyter writes it
Cell = dict[str, Any]


def cells(page: Path) -> list[Cell]:
    """The cells of a page with outputs from the notebook beside it. Without a notebook, they are run now."""
    record = page.with_suffix(".ipynb")
    return recorded(page.read_text(), record.read_text()) if record.exists() else run(page.read_text())


def recorded(text: str, record: str) -> list[Cell]:
    """The cells of a page with the outputs of a notebook; ValueError if the code differs from the notebook's."""
    found, ran = _parts(text), [cell for cell in json.loads(record)["cells"] if _is_code(cell)]
    if [cell["source"] for cell in ran] != [cell["source"] for cell in found if _is_code(cell)]:
        raise ValueError(
            "a tutorial has changed since it was recorded: run `python -m benchmarks.site.tutorials` with its path"
        )
    outputs = iter(ran)
    return [next(outputs) if _is_code(cell) else cell for cell in found]


def run(text: str) -> list[Cell]:
    """The cells of a page, after its programs have run in one namespace and in a temporary folder."""
    found, namespace = _parts(text), {"__name__": "tutorial"}
    with _quiet_folder():
        for cell in filter(_is_code, found):
            cell["outputs"] = _outputs(cell["source"], namespace)
    return found


def _parts(text: str) -> list[Cell]:
    """The cells of a page before its programs are run."""
    found = []
    for i, part in enumerate(BLOCK.split(text)):
        # text and programs alternate
        kind, ran = ("code", {"execution_count": None, "outputs": []}) if i % 2 else ("markdown", {})
        found.append({"cell_type": kind, "id": f"cell-{i}", "metadata": {}, "source": part.strip()} | ran)
    return [cell for cell in found if cell["source"]]


def _is_code(cell: Cell) -> bool:
    return cell["cell_type"] == "code"


def _outputs(program: str, namespace: dict[str, Any]) -> list[dict[str, Any]]:
    """The outputs of a program: its printed text and its plots."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(compile(program, "tutorial", "exec"), namespace)
    printed = {"output_type": "stream", "name": "stdout", "text": shown.getvalue()}
    plots = [_plot(pyplot.figure(number)) for number in pyplot.get_fignums()]
    pyplot.close("all")
    return [printed, *plots] if printed["text"] else plots


def _plot(figure: Any) -> dict[str, Any]:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130, bbox_inches="tight", metadata={"Software": None})
    return {"output_type": "display_data", "metadata": {}, "data": {"image/png": base64.b64encode(file.getvalue()).decode()}}


@contextlib.contextmanager
def _quiet_folder() -> Iterator[None]:
    """Work in a temporary folder, without open figures, warnings and log messages."""
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
    """{path in the site: content} of a tutorial: the page with its outputs, the plots and the notebook."""
    plots: dict[str, str | bytes] = {}
    parts = []
    for cell in cells:
        parts.append(f"```python\n{cell['source']}\n```" if _is_code(cell) else cell["source"])
        for output in cell.get("outputs", []):
            if output["output_type"] == "stream":
                parts.append(f"```text\n{output['text']}```")
            else:
                plot = f"{name}-{len(plots)}.png"
                plots[f"tutorials/{plot}"] = base64.b64decode(output["data"]["image/png"])
                parts.append(f"![The plot that this block draws]({plot})")
    title, _, text = "\n\n".join(parts).partition("\n")
    page = f"{title}\n\n[The same as a notebook]({name}.ipynb), with its outputs.\n{text}\n"
    return {f"tutorials/{name}.md": page, f"tutorials/{name}.ipynb": notebook(cells)} | plots


def notebook(cells: list[Cell]) -> str:
    """The cells as a notebook of Jupyter."""
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}, indent=1)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        write(path.with_suffix(".ipynb"), notebook(run(path.read_text())) + "\n")
