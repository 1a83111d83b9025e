"""Kill and restart two benchmark programs at random moments. Check that no finished run is lost and no result changes.

    make kills KILLS='--kills 20 --seed 1'

About half of the kills end the program and its workers. The other kills end only the program.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.table1.records import Records  # noqa: E402

TINY = ["--limit-images", "200", "--batch-size", "32", "--epochs", "3", "--width", "0.125", "--image-size", "16"]
TINY += ["--accelerator", "cpu", "--jobs", "2"]
PROGRAMS = {
    "table1": ["--methods", "vicreg", "moco", "byol_logdet", "--seeds", "2"],
    "table1.tuning": ["--methods", "vicreg", "byol", "--rates-only"],
}
#: results that a repeated run must reproduce; the run time, for example, may differ
NUMBERS = ("linear", "linear_best", "best_epoch", "knn", "rank_me", "rank_me_features", "loss", "curve")


def started(program: str, output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"benchmarks.{program}", *PROGRAMS[program], *TINY, "--output", str(output)]
    # stderr goes to a file, because idle workers of a killed program would hold a pipe open for minutes
    with (output.parent / "stderr").open("wb") as said:
        return subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=said)


def numbers(folder: Path) -> dict[tuple[str, int], list[float]]:
    """The results of every finished run in the folder, by method and seed."""
    return {(row["method"], row["seed"]): [row.get(name) for name in NUMBERS] for row in Records(folder).rows}


def ended(process: subprocess.Popen[bytes], folder: Path) -> None:
    assert process.wait() == 0, (folder / "stderr").read_text()


def kill(process: subprocess.Popen[bytes], with_workers: bool) -> None:
    (os.killpg if with_workers else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    # the workers check once a second whether their program is gone, so give them time to end
    time.sleep(2)


def check(program: str, kills: int, draw: random.Random, folder: Path) -> None:
    """Kill and restart the program `kills` times. Assert that its results equal the results of a program without kills."""
    start = time.monotonic()
    ended(started(program, folder / "whole"), folder)
    seconds, whole, killed = time.monotonic() - start, numbers(folder / "whole"), folder / "killed"
    before: dict[tuple[str, int], list[float]] = {}
    done = again = 0
    while done < kills:
        process, with_workers = started(program, killed), draw.random() < 0.5
        after = draw.uniform(0, seconds)
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            kill(process, with_workers)
            done += 1
        else:
            ended(process, folder)
        kept = numbers(killed)
        assert before.items() <= kept.items(), "a finished run was lost or changed"
        assert kept.items() <= whole.items(), "the results of a run differ from its results without kills"
        print(
            f"{program}: {done} kills so far; the last run had {after:.1f} s; {len(kept)} of {len(whole)} runs kept", flush=True
        )
        before = kept
        if len(kept) == len(whole):
            # all runs are finished, so the next kills need a new folder
            again += 1
            killed, before = folder / f"killed{again}", {}
    ended(started(program, killed), folder)
    assert numbers(killed) == whole and not list((killed / "unfinished").glob("*.ckpt"))
    assert sorted(path.name for path in killed.iterdir()) == sorted(path.name for path in (folder / "whole").iterdir())


def main() -> None:
    """Check every program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="number of times to kill each program")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    for program in PROGRAMS:
        with tempfile.TemporaryDirectory() as folder:
            check(program, options.kills, random.Random(options.seed), Path(folder))
        print(f"{program}: no run was lost or changed in {options.kills} kills")


if __name__ == "__main__":
    main()
