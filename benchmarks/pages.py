"""Write the output files of the programs: CSV files, Markdown pages and figures."""

import csv
import io
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
#: the hand-written remarks in a page
NOTES = re.compile("<!-- notes -->\n+(.*?)\n+<!-- /notes -->", re.DOTALL)


def _commit() -> str | None:
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run([*git, "describe", "--always"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    # results that a run has just written do not count as changes
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ".", ":!benchmarks/results"], check=False).returncode
    return commit + "-dirty" * bool(changed)


#: the checked-out commit at the start of the program, with "-dirty" if tracked files differ from it; None outside a checkout
COMMIT = _commit()


def write(path: Path, content: str | bytes) -> None:
    """Replace a file as a whole: a killed program leaves the old file or the complete new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the rows as CSV with a column for each key. Missing values are empty, and floats keep all digits."""
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue())


def table(rows: Iterable[Mapping[str, str]], *, left: int = 1) -> str:
    """The rows as a Markdown table with a column for each key. All but the first `left` columns are aligned to the right."""
    rows = list(rows)
    heads = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(heads) + " |", "|---" * left + "|---:" * (len(heads) - left) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row.get(name, "") for name in heads) + " |" for row in rows])


def filled(program: str, lines: Iterable[Mapping[str, Any]] = (), **values: object) -> str:
    """The Markdown template beside the file `program`, with each `{name}` replaced by its value.

    A table row that begins with a `{name}` appears once for each mapping in `lines`, with the values of that mapping.
    """
    parts: list[str] = []
    for line in Path(program).with_suffix(".md").read_text().splitlines():
        parts += [line.format(**own) for own in lines] if line.startswith("| {") else [line.format(**values)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).strip("\n") + "\n"


def page(title: str, *parts: str) -> str:
    """A Markdown page made of a title and paragraphs; empty paragraphs are left out."""
    return "\n\n".join([f"# {title}", *(part.strip("\n") for part in parts if part)]) + "\n"


def notes(folder: Path) -> str:
    """The hand-written remarks in a folder's README.md, with the HTML comments around them; "" if there are none."""
    path = folder / "README.md"
    found = NOTES.search(path.read_text()) if path.exists() else None
    return found[0] if found else ""


@contextmanager
def figure(path: Path, *, size: tuple[float, float]) -> Iterator[Any]:
    """Yield an empty matplotlib figure, and write it to `path` when the block ends."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=size, layout="constrained", dpi=150)
    yield drawn
    image = io.BytesIO()
    drawn.savefig(image, format="png")
    write(path, image.getvalue())
