"""Map files of the repository to pages and assets of the site, and change the links between them."""

import os
import posixpath
import re

from benchmarks.pages import ROOT

#: file outside docs/ -> its page in the site
OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "LICENSE": "LICENSE"}
RESULTS = "benchmarks/results"
#: files of a folder of results that the site includes
SHOWN = ("*.md", "*.csv", "*.jsonl", "*.png")
#: a Markdown link or image: the part before its target, the target without its anchor, and the anchor
LINK = re.compile(r"(\]\()(?!\w+:|#|/)([^)\s#]+)(#[^)\s]*)?(?=\))")


def collected() -> dict[str, str]:
    """Files outside docs/ that the site includes: {path in the repository: path in the site}."""
    shown = [path for pattern in SHOWN for path in sorted((ROOT / RESULTS).glob(f"*/{pattern}"))]
    results = [path.relative_to(ROOT).as_posix() for path in shown]
    return OUTSIDE | {path: site_path(path) for path in results}


def site_path(path: str) -> str:
    """The path in the site of a file of the repository."""
    if path in OUTSIDE:
        return OUTSIDE[path]
    if path == "docs/README.md":
        return OUTSIDE["README.md"]
    if path.startswith(RESULTS):
        return "results" + path.removeprefix(RESULTS).replace("README.md", "index.md")
    return path.removeprefix("docs/")


def relinked(text: str, page: str) -> str:
    """The text of a page, with its relative links changed from paths in the repository to paths in the site."""
    outside = {site: path for path, site in collected().items()}
    folder = posixpath.dirname(outside.get(page, f"docs/{page}"))

    def target(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[2]))
        if (ROOT / path).is_dir():
            path += "/README.md"
        return link[1] + os.path.relpath(site_path(path), posixpath.dirname(page) or ".") + (link[3] or "")

    return LINK.sub(target, text)
