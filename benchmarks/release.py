"""`python -m benchmarks.release ADDRESS` writes the sources of a release to build/release, with links to ADDRESS."""

import shutil
import sys
from pathlib import Path

import it_losses
from benchmarks.pages import ROOT
from benchmarks.site.sources import LINK


def lay_out(tree: Path, address: str) -> None:
    """Replace the folder `tree` by the sources of a release, with the repository's address in links and metadata."""
    if not address.startswith("https://"):
        sys.exit(f"the address must start with https://, got {address!r}. Call it with make dist REPOSITORY=https://...")
    shutil.rmtree(tree, ignore_errors=True)
    for name in ("it_losses", "adapters"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    (tree / "README.md").write_text(absolute((ROOT / "README.md").read_text(), address))
    with (tree / "pyproject.toml").open("a") as file:
        file.write(f'\n[project.urls]\nRepository = "{address}"\n')


def absolute(text: str, address: str) -> str:
    """The text with absolute links: a package index shows the README outside the repository."""
    parts = []
    for line in text.splitlines(keepends=True):
        kind = "raw" if line.startswith("![") else "blob"
        parts.append(LINK.sub(rf"\g<1>{address}/{kind}/v{it_losses.__version__}/\g<2>\g<3>", line))
    return "".join(parts)


if __name__ == "__main__":
    lay_out(ROOT / "build" / "release", sys.argv[1].rstrip("/"))
