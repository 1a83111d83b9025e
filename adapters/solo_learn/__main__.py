"""`python -m it_losses.adapters.solo_learn SCRIPT ARGUMENTS` runs a script of solo-learn with our methods registered.

Without arguments it prints the folder of the configs, for `--config-path`.
"""

import os
import sys
from pathlib import Path

from it_losses.adapters.solo_learn import CONFIGS, register

#: environment variable with the path of the script, for the ranks that Lightning starts
SCRIPT = "IT_LOSSES_SOLO_SCRIPT"


def script_of(arguments: list[str]) -> tuple[str, list[str]]:
    """The script's path and its own arguments."""
    if arguments and arguments[0].endswith(".py"):
        return os.path.abspath(arguments[0]), arguments[1:]
    if SCRIPT in os.environ:
        return os.environ[SCRIPT], arguments
    raise SystemExit(f"{__doc__}\nThe first argument must be a script of solo-learn, got {arguments[:1]}.")


def main() -> None:
    """Run the script inside this module, because Lightning starts the other ranks with the module in `__main__.__spec__`."""
    if len(sys.argv) == 1 and SCRIPT not in os.environ:
        print(CONFIGS)
        return
    script, arguments = script_of(sys.argv[1:])
    if not Path(script).is_file():
        raise SystemExit(f"{script} is not a file.")
    os.environ[SCRIPT] = script
    sys.argv = [script, *arguments]
    # the script imports solo from its own checkout
    sys.path.insert(0, str(Path(script).parent))
    try:
        register()
    except ImportError as error:
        raise SystemExit(str(error)) from error
    globals()["__file__"] = script
    exec(compile(Path(script).read_bytes(), script, "exec"), globals())


if __name__ == "__main__":
    main()
