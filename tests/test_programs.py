"""If a program hangs, its test fails and shows the output so far. No process of the program is left running."""

import sys
import time

import pytest
from programs import assert_gone, finished

#: a program that starts a sleeping process and prints the id of that process
PARENT = """
import subprocess, sys
silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], **silent)
print(child.pid, flush=True)
"""


def test_a_program_that_ends_gives_its_output_and_its_exit_code():
    done = finished([sys.executable, "-c", "import sys; print('said'); sys.exit(3)"])
    assert (done.returncode, done.stdout.strip()) == (3, "said")


@pytest.mark.slow
def test_a_program_that_hangs_fails_in_time_with_its_output():
    start = time.monotonic()
    with pytest.raises(AssertionError, match=r"did not end within 5 seconds:\n\d+") as caught:
        finished([sys.executable, "-c", PARENT + "child.wait()"], seconds=5)
    assert time.monotonic() - start < 30
    assert_gone(int(str(caught.value).split(":\n")[1].split()[0]))


def test_processes_that_a_program_leaves_behind_are_ended():
    assert_gone(int(finished([sys.executable, "-c", PARENT]).stdout))
