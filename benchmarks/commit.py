"""Which commit the running code is of: asked once, when it is loaded, since the files may change under a long run."""

from __future__ import annotations

import subprocess
from pathlib import Path


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


#: short hash, "-dirty" where files differ from it; None outside a checkout
COMMIT = _commit()
