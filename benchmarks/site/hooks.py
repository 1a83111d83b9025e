"""The functions that MkDocs calls while it builds the site; `mkdocs.yml` names this file."""

from typing import Any

from mkdocs.structure.files import File

from benchmarks.site import api, made, tutorials
from benchmarks.site.sources import ROOT, collected, relinked


def on_startup(command: str, dirty: bool) -> None:
    """Copy the package before MkDocs configures mkdocstrings, which looks for the copy."""
    api.package()


def on_files(files: Any, config: Any) -> Any:
    """Add the pages outside docs/, the API reference, the plots, and the tutorials with their outputs."""
    for path, page in collected().items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    generated = api.pages() | made.plot_files()
    for path in sorted(tutorials.FOLDER.glob("*.md")):
        generated |= tutorials.files(path.stem, tutorials.cells(path))
    for name, content in generated.items():
        # a tutorial in docs/ has no outputs, so its page is replaced
        if source := files.get_file_from_path(name):
            files.remove(source)
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fill in the generated parts, and change the links to those of the site."""
    return relinked(made.filled(markdown), page.file.src_uri)
