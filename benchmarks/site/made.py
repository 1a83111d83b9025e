"""The parts of a page that are made: `<!-- made: name -->` to `<!-- /made -->` is replaced when the site is built."""

from __future__ import annotations

import re
from collections.abc import Callable

from benchmarks.site import tables

BLOCK = re.compile(r"<!-- made: (\S+) -->.*?<!-- /made -->", re.DOTALL)
#: name -> what writes that part as Markdown
MADE: dict[str, Callable[[], str]] = {
    "estimators": tables.estimators,
}


def filled(markdown: str) -> str:
    """The page with every made part in its place; KeyError for a name that nothing makes."""
    return BLOCK.sub(lambda block: MADE[block[1]](), markdown)


def plots() -> dict[str, str]:
    """{path in the site: SVG}."""
    return {}
