"""`python -m benchmarks.release ADDRESS`: the wheel and the source distribution in dist/, checked for an index of packages."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import it_losses
from benchmarks.pages import ROOT
from benchmarks.site.sources import LINK

DIST, TREE = ROOT / "dist", ROOT / "build" / "release"


def lay_out(tree: Path, address: str) -> None:
    """Copy the sources into an empty folder, with the address of the repository in their links and metadata."""
    shutil.rmtree(tree, ignore_errors=True)
    for name in ("it_losses", "adapters"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    (tree / "README.md").write_text(absolute((ROOT / "README.md").read_text(), address))
    with (tree / "pyproject.toml").open("a") as file:
        file.write(f'\n[project.urls]\nRepository = "{address}"\n')


def absolute(text: str, address: str) -> str:
    """The text with its relative links absolute: an index shows the README outside of the repository."""
    parts = []
    for line in text.splitlines(keepends=True):
        kind = "raw" if line.startswith("![") else "blob"
        parts.append(LINK.sub(rf"\g<1>{address}/{kind}/v{it_losses.__version__}/\g<2>\g<3>", line))
    return "".join(parts)


def main(arguments: list[str] | None = None) -> int:
    """Build both distributions and check them; the exit status of the first command that fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.release", description=__doc__)
    parser.add_argument("address", help="of the repository, such as https://github.com/OWNER/it-losses")
    address = parser.parse_args(arguments).address.rstrip("/")
    if not address.startswith("https://"):
        parser.error(f"the address must start with https://, got {address!r}. Call it with make dist REPOSITORY=https://...")
    lay_out(TREE, address)
    shutil.rmtree(DIST, ignore_errors=True)
    python = [sys.executable, "-m"]
    built = subprocess.run([*python, "build", "--no-isolation", "--outdir", str(DIST), str(TREE)], check=False)
    if built.returncode:
        return built.returncode
    return subprocess.run([*python, "twine", "check", "--strict", *map(str, sorted(DIST.iterdir()))], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
