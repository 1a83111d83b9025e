"""Run the core tests on other versions of torch and Python, each pair in its own environment, and print a table.

`python tests/versions.py [--torch 2.8 2.11 newest] [--python 3.10 3.13] [--keep]`
"""

import argparse
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
#: packages that the core tests need besides torch. On Linux torch installs Triton. The interpreter of Triton 3.6 fails with
#: NumPy 2.4
NEEDED = ("numpy<2.4", "lightning", "matplotlib", "pytest", "pytest-xdist>=3.8", "hypothesis")
#: bytes of free disk that pip needs to unpack torch with its CUDA libraries
ROOM = 9 * 2**30
COLUMNS = ("torch", "Triton", "Python", "passed", "failed", "skipped", "minutes", "")


def main():
    arguments = parsed()
    available = {version: path for version in PYTHONS if (path := interpreter(version))}
    wanted = arguments.python or list(dict.fromkeys([min(available, key=number), max(available, key=number)]))
    rows = []
    for python in wanted:
        if python not in available:
            print(f"Python {python} is skipped: python{python} was found neither on PATH nor in pyenv.")
            continue
        for torch in arguments.torch:
            rows.append(tried(torch, python, available[python], keep=arguments.keep))
            print(table(rows), flush=True)
    return int(not rows or any(row["failed"] != "0" for row in rows))


def parsed():
    parser = argparse.ArgumentParser(prog="python tests/versions.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--torch", nargs="+", default=["2.8", "2.11", "newest"], help='versions of torch, such as "2.8" or "newest"'
    )
    parser.add_argument(
        "--python", nargs="*", help='versions of Python, such as "3.10" (default: the oldest and the newest found)'
    )
    parser.add_argument("--keep", action="store_true", help="keep the environments, 6 GB each")
    return parser.parse_args()


def number(version):
    return tuple(map(int, version.split(".")))


def interpreter(version):
    """Return the path of a Python of this version, or None. Search the running Python, PATH and pyenv."""
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    this = [sys.executable] if number(version) == sys.version_info[:2] else []
    for path in (*this, shutil.which(name), *pyenv.glob(f"{version}.*/bin/{name}")):
        # a program on PATH may be a wrapper that does not start, so run it once
        if path and (found := output(str(path), "-c", "import sys; print(sys.executable)")):
            return found
    return None


def tried(torch, python, path, *, keep):
    """Run the core tests with this torch and Python, and return their row of the table."""
    folder = ROOT / f".venv-{torch}-py{python}"
    row = dict.fromkeys(COLUMNS, "") | {"torch": torch, "Python": python, "failed": "all"}
    if shutil.disk_usage(ROOT).free < ROOM:
        return row | {"": f"not installed: needs {ROOM >> 30} GB of free disk"}
    try:
        if reason := installed(torch, path, folder):
            return row | {"": f"not installed: {reason}"}
        own = str(folder / "bin" / "python")
        for name in ("torch", "Triton"):
            row[name] = output(own, "-c", f"import {name.lower()} as m; print(m.__version__)") or "none"
        return row | counted(own, folder / "core.xml")
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def installed(torch, python, folder):
    """Make the environment and install the packages. Return why it failed, or an empty string."""
    release = "torch" if torch == "newest" else f"torch=={torch}.*"
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    commands = ([python, "-m", "venv", str(folder)], [*pip, release, *NEEDED], [*pip, "--no-deps", "--editable", str(ROOT)])
    for command in commands:
        print(" ".join(command), flush=True)
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            told = done.stderr.strip().splitlines() or ["pip printed no error"]
            return next((line for line in told if line.startswith("ERROR")), told[-1])
    return ""


def counted(python, report):
    """Run the core tests. Return how many passed, failed and were skipped, and how many minutes they took."""
    options = ["-m", "core", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "-q", f"--junitxml={report}"]
    command = [python, "-m", "pytest", *options]
    code = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode
    if code not in (0, 1) or not report.exists():
        return {"": f"pytest ended with exit code {code}"}
    suite = ElementTree.parse(report).getroot().find("testsuite").attrib
    failed = int(suite["failures"]) + int(suite["errors"])
    passed = int(suite["tests"]) - failed - int(suite["skipped"])
    minutes = f"{float(suite['time']) / 60:.1f}"
    return {"passed": str(passed), "failed": str(failed), "skipped": suite["skipped"], "minutes": minutes}


def output(*command):
    """The output of a program, or an empty string if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def table(rows):
    lines = [COLUMNS, ["---"] * len(COLUMNS), *([row[name] for name in COLUMNS] for row in rows)]
    return "\n".join(["", *("| " + " | ".join(line) + " |" for line in lines), ""])


if __name__ == "__main__":
    sys.exit(main())
