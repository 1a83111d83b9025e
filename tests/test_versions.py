"""tests/versions.py reports each version that it could not test, and fails if a test fails."""

import os
import sys

import pytest
import versions

pytestmark = pytest.mark.slow
THIS = f"{sys.version_info.major}.{sys.version_info.minor}"


def row(**found):
    return dict.fromkeys(versions.COLUMNS, "") | {"torch": "2.8", "Python": THIS} | found


@pytest.fixture
def asked(monkeypatch):
    """Return a function that runs tests/versions.py as if each pair of torch and Python had the row `answer`."""

    def ask(answer, *arguments):
        monkeypatch.setattr(versions, "tried", lambda torch, python, path, keep: answer | {"torch": torch})
        monkeypatch.setattr(sys, "argv", ["versions.py", *arguments])
        return versions.main()

    return ask


def test_each_pair_has_a_row(asked, capsys):
    assert asked(row(passed="12", failed="0"), "--torch", "2.8", "newest", "--python", THIS) == 0
    printed = capsys.readouterr().out
    assert all(f"| {torch} |  | {THIS} | 12 | 0 |" in printed for torch in ("2.8", "newest"))


@pytest.mark.parametrize("failed", ["3", "all"])
def test_a_failure_fails_the_command(asked, failed):
    assert asked(row(failed=failed), "--torch", "2.8", "--python", THIS) == 1


def test_a_python_that_is_missing_is_skipped_with_a_message(asked, capsys):
    assert asked(row(failed="0"), "--torch", "2.8", "--python", "3.99", THIS) == 0
    assert "Python 3.99 is skipped" in capsys.readouterr().out
    # the command fails if it could test nothing
    assert asked(row(failed="0"), "--torch", "2.8", "--python", "3.99") == 1


def test_the_running_python_is_found():
    assert versions.output(versions.interpreter(THIS), "-c", "print(6 * 7)") == "42"
    assert versions.interpreter("3.99") is None


def test_too_small_a_disk_is_a_row(monkeypatch):
    monkeypatch.setattr(versions, "ROOM", 1 << 60)
    found = versions.tried("2.8", THIS, sys.executable, keep=False)
    assert (found["failed"], "free disk" in found[""]) == ("all", True)


def test_a_torch_that_pip_does_not_find_is_a_row(monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(versions, "ROOM", 0)
    found = versions.tried("0.0", THIS, sys.executable, keep=False)
    assert found["failed"] == "all" and "torch==0.0.*" in found[""]
    assert not (versions.ROOT / f".venv-0.0-py{THIS}").exists()


def test_the_report_of_pytest_is_counted(tmp_path):
    """A small program replaces pytest and writes the same report."""
    report = tmp_path / "core.xml"
    suite = '<testsuites><testsuite tests="10" failures="2" errors="1" skipped="3" time="90.0"/></testsuites>'
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\necho '{suite}' > {report}\nexit 1\n")
    program.chmod(0o755)
    assert versions.counted(str(program), report) == {"passed": "4", "failed": "3", "skipped": "3", "minutes": "1.5"}
    program.write_text("#!/bin/sh\nexit 4\n")
    assert versions.counted(str(program), report) == {"": "pytest ended with exit code 4"}
