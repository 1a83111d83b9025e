"""The commit of the running code, read once at import because files may change during a long run."""

from __future__ import annotations

import subprocess
from pathlib import Path


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


#: short hash, with "-dirty" if files differ from it; None outside a checkout
COMMIT = _commit()
