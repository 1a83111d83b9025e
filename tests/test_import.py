"""Importing the package changes no state of torch or of the environment. It opens no socket and starts no thread or process."""

import json
import sys
from pathlib import Path

import pytest
from programs import finished

#: program that imports a module. It prints which state changed, and which sockets and processes were created
PROGRAM = """
import importlib, json, os, random, sys, threading, torch

def state():
    tasks = "/proc/self/task"
    return {
        "random numbers of torch": torch.get_rng_state().tolist(),
        "random numbers of Python": repr(random.getstate()),
        "threads of torch": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "threads of the process": [threading.active_count(), len(os.listdir(tasks)) if os.path.isdir(tasks) else 0],
        "CUDA is initialised": torch.cuda.is_initialized(),
        "default dtype": str(torch.get_default_dtype()),
        "gradients": torch.is_grad_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "environment": dict(os.environ),
    }

before, events = state(), []
sys.addaudithook(lambda event, _: events.append(event))
importlib.import_module(sys.argv[1])
seen = sorted({event for event in events if event.startswith(("socket.", "subprocess.", "os.system", "os.fork", "os.exec"))})
after = state()
changed = [name for name in before if before[name] != after[name]]
print(json.dumps({"changed": changed, "events": seen, "CUDA is initialised": after["CUDA is initialised"]}))
"""


def imported(name, folder=None):
    """Run PROGRAM for a module in a fresh process, and return what it prints."""
    done = finished([sys.executable, "-c", PROGRAM, name], cwd=folder or Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_importing_the_package_changes_nothing_in_the_process():
    assert imported("it_losses") == {"changed": [], "events": [], "CUDA is initialised": False}


@pytest.mark.slow
def test_what_an_import_changes_is_seen(tmp_path):
    planted = "import os, socket, threading, time, torch\ntorch.rand(1)\ntorch.set_num_threads(torch.get_num_threads() + 1)\n"
    planted += "threading.Thread(target=time.sleep, args=(5,), daemon=True).start()\nsocket.socket().close()\n"
    (tmp_path / "planted.py").write_text(planted)
    found = imported("planted", tmp_path)
    assert found["changed"][:3] == ["random numbers of torch", "threads of torch", "threads of the process"]
    assert "socket.__new__" in found["events"]
