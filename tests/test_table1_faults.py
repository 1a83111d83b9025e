"""If a long program is killed or cannot write, no finished run is lost, and the message says what to do.

Half-written files are not read. `make kills` takes longer, because it kills programs at random moments.
"""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks_extra import TINY, told

from benchmarks import RequestError
from benchmarks.table1 import launch
from benchmarks.table1.__main__ import main
from benchmarks.table1.records import Records, reserved

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {"dataset": "digits", "rows": {}}
FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size})); "
PROGRAM = "from benchmarks.table1.__main__ import main; raise SystemExit(main({arguments}))"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of a table with two finished runs."""
    monkeypatch.setenv(launch.PENDING, "")
    kept = Records(tmp_path / "table")
    kept.open(SETTINGS)
    for seed in (0, 1):
        kept.add({"method": "vicreg", "seed": seed, "linear": 0.5 + seed})
    return tmp_path / "table"


def test_two_programs_do_not_write_to_one_folder(folder):
    code = "import sys; from pathlib import Path; from benchmarks.table1.records import reserved\n"
    code += "with reserved(Path(sys.argv[1])): print('reserved', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, folder], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "reserved\n"
    with (
        pytest.raises(
            RequestError, match=r"Another program is writing to .*/table\. Wait for it, or choose another --output\."
        ),
        reserved(folder),
    ):
        raise AssertionError("two programs in one folder")
    # after the first program is killed, another one can reserve the folder
    other.send_signal(signal.SIGKILL)
    other.wait()
    with reserved(folder):
        assert len(Records(folder).rows) == 2


def test_half_written_files_of_a_killed_program_are_removed_and_its_checkpoints_are_kept(folder):
    with reserved(folder):
        pass
    left, kept = (
        [folder / ".rows.jsonl.123", folder / "unfinished" / "vicreg-seed2.part"],
        folder / "unfinished" / "byol-seed0.ckpt",
    )
    for path in [*left, kept, folder / ".other"]:
        path.write_text("half")
    with reserved(folder):
        assert not any(path.exists() for path in left) and kept.exists() and (folder / ".other").exists()


def test_a_truncated_file_is_refused_with_its_line_and_a_remedy_that_works(folder):
    path = folder / "rows.jsonl"
    settings, first, second = path.read_text().splitlines(keepends=True)
    path.write_text(settings + first + second[:-5])
    with pytest.raises(RequestError, match=r"rows.jsonl, line 3 is damaged: .* Remove that line to repeat its run."):
        Records(folder)
    path.write_text(settings + first)
    kept = Records(folder)
    kept.open(SETTINGS)
    assert kept.has("vicreg", 0) and not kept.has("vicreg", 1)
    path.write_text(settings[:-5])
    with pytest.raises(RequestError, match=r"rows.jsonl, line 1 is damaged: .* Restore the file, or choose another --output."):
        Records(folder)
    path.write_text(first)
    with pytest.raises(RequestError, match="was written by an older version, without settings"):
        Records(folder)


def test_a_row_is_written_whole_or_not_at_all(folder, monkeypatch):
    row = {"method": "vicreg", "seed": 2, "linear": 0.1}
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Records(folder).add(row)
    monkeypatch.undo()
    assert len(Records(folder).rows) == 2
    Records(folder).add(row)
    assert [row["seed"] for row in Records(folder).of("vicreg")] == [0, 1, 2]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(30, "Read-only file system")], ids=str)
def test_a_disk_that_cannot_be_written_keeps_the_finished_runs(folder, monkeypatch, error):
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    kept = Records(folder)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(error))
    with pytest.raises(RequestError, match=rf"cannot be written: .*{error.strerror}.*run the same command again"):
        kept.add({"method": "vicreg", "seed": 2, "linear": 0.1})
    monkeypatch.undo()
    assert {name: (folder / name).read_bytes() for name in before} == before
    with reserved(folder):
        assert sorted(path.name for path in folder.iterdir() if path.is_file()) == sorted(before)


def test_a_table_is_not_continued_with_other_images(tmp_path, monkeypatch, capsys):
    arguments = [*TINY, "--methods", "vicreg", "--output", str(tmp_path)]
    assert main(arguments) == 0
    loaded = launch.loaded
    monkeypatch.setattr(launch, "loaded", lambda options: replace(loaded(options), train=255 - loaded(options).train))
    assert main(arguments) == 1
    assert "holds a table made with other settings: images was" in told(capsys.readouterr().err)


@pytest.fixture
def no_removal(monkeypatch):
    """Make every removal of a file fail as on a read-only file system. Folder permissions would not stop the user root."""

    def refused(path, missing_ok=False):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "unlink", refused)


def test_a_half_written_file_that_cannot_be_removed_is_told_with_the_remedy(folder, no_removal):
    (folder / ".rows.jsonl.123").write_text("half")
    message = r"cannot be written: .*Read-only file system.*run the same command again"
    with pytest.raises(RequestError, match=message), reserved(folder):
        raise AssertionError("the folder cannot be written")


def test_a_checkpoint_that_cannot_be_removed_ends_the_program_with_the_remedy(tmp_path, monkeypatch, capsys, no_removal):
    monkeypatch.setattr(launch, "_results", lambda runs, *_: map(row_of, runs))
    arguments = [*TINY, "--methods", "vicreg", "--output", str(tmp_path / "table")]
    assert main(arguments) == 1
    said = told(capsys.readouterr().err)
    assert "cannot be written: [Errno 30] Read-only file system" in said and "run the same command again" in said
    # the run is recorded as finished, although its checkpoint could not be removed
    assert len(Records(tmp_path / "table").rows) == 1


def row_of(run):
    return {"method": run.method, "seed": run.seed, "linear": 0.5, "knn": 0.5, "seconds": 1.0}


@pytest.mark.slow
@pytest.mark.parametrize("size", [200, 30_000], ids=["rows", "checkpoints"])
def test_a_table_on_a_full_disk_says_so_and_goes_on_when_there_is_room(tmp_path, size):
    arguments = [*TINY, "--methods", "vicreg", "--output", str(tmp_path / "table")]
    program = PROGRAM.format(arguments=arguments)
    # a limit on file sizes makes the same calls fail as a full disk
    full = subprocess.run([sys.executable, "-c", FULL.format(size=size) + program], cwd=ROOT, capture_output=True, text=True)
    assert full.returncode == 1 and "Traceback" not in full.stderr
    assert "cannot be written" in told(full.stderr) and "run the same command again" in told(full.stderr)
    kept = Records(tmp_path / "table").rows
    assert main(arguments) == 0
    assert Records(tmp_path / "table").rows[: len(kept)] == kept
    assert [row["method"] for row in Records(tmp_path / "table").rows] == ["untrained", "vicreg"]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "code"])
def test_a_checkpoint_that_is_cut_or_holds_code_is_not_read(tmp_path, capsys, damage):
    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    arguments = [*TINY, "--methods", "vicreg", "--output", str(tmp_path)]
    checkpoint = tmp_path / "unfinished" / "vicreg-seed0.ckpt"
    checkpoint.parent.mkdir()
    torch.save({"state_dict": torch.zeros(1000) if damage == "cut" else Harmful()}, checkpoint)
    if damage == "cut":
        checkpoint.write_bytes(checkpoint.read_bytes()[:2000])
    assert main(arguments) == 0
    printed = told(capsys.readouterr().out)
    assert "starts again, because it cannot read" in printed and not (tmp_path / "ran").exists()
    assert json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[-1])["method"] == "vicreg"
    assert not checkpoint.exists()
