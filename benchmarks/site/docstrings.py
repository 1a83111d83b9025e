"""An extension of Griffe that shows the examples in docstrings, which start with >>>, as code."""

import re
from typing import Any

import griffe

#: lines from the first prompt to the next empty line
EXAMPLE = re.compile(r"^>>> .+(?:\n.+)*", re.MULTILINE)


class Examples(griffe.Extension):
    """Puts a Markdown code fence around each example."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object that was loaded."""
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(lambda example: f"```pycon\n{example[0]}\n```", obj.docstring.value)
