"""Commands on documentation pages are valid: the program accepts the options, and every named file, target and extra exists."""

import argparse
import importlib.util
import os
import pydoc
import re
import runpy
import shlex
import sys
from pathlib import Path

import hosts
import pytest
from packaging.requirements import InvalidRequirement, Requirement
from test_pages import PAGES, ROOT, fenced, name
from torch.distributed.run import get_args_parser

#: the commands of this page are not tested, because they belong to earlier commits and their options may have changed
RECORDS = ROOT / "docs" / "report.md"
MAKEFILE = (ROOT / "Makefile").read_text()
#: programs that take files and no options
WITHOUT_OPTIONS = {
    "benchmarks.examples.minimal",
    "benchmarks.report",
    "benchmarks.site.made",
    "benchmarks.site.tutorials",
    "it_losses.adapters.solo_learn",
    "pytest",
}
#: folder into which the pages clone another library -> environment variable with the path of that checkout
CHECKOUTS = {repository.split("/")[1]: variable for variable, repository in hosts.REPOSITORIES.items()}
#: placeholders on the pages -> a value that a reader could choose
STANDS_FOR = {"LIBRARY": "lightly"}
PROGRAM = r"(?:\w+=\S+ +)*(?:\w+=\$\()?(?:\S*/)?(?:python|torchrun|make|pip|git|export)\b"


def commands(page):
    """Every line of an sh block, and every text in an indented block or in backquotes that looks like a command."""
    found = [line for language, block in fenced(page) if language == "sh" for line in lines(block)]
    prose = re.sub(r"^([ ]*)```.*?^\1```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    indented = lines("".join(re.findall(r"^ {4}.*\n", prose, re.MULTILINE)))
    inline = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    return found + [line for line in indented + inline if re.match(PROGRAM + " ", line)]


def lines(block):
    """Return the commands of a block. A command that continues on the next line becomes one line."""
    return [line.strip() for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def every_command():
    """Return a test case for each command. Its id names the first page with the command."""
    pages = {command: page for page in reversed(PAGES) if page != RECORDS for command in commands(page)}
    return [pytest.param(command, id=f"{name(page)}: {command}", marks=marks(command)) for command, page in pages.items()]


def marks(command):
    """Mark a command of the benchmarks as slow, because its program imports networks and trainers."""
    return [pytest.mark.slow] * ("-m benchmarks." in command)


def check(command):
    """Raise an error unless the program of the command is in FORMS and its arguments are valid."""
    inside = re.fullmatch(r"\w+=\$\((.*)\)", command)
    for part in (inside[1] if inside else command).split("&&"):
        check_program(*shlex.split(part, comments=True))


def check_program(*words):
    variable = re.fullmatch(r"(\w+)=.*", words[0])
    if variable:
        assert variable[1] in {"PYTHONPATH", *hosts.REPOSITORIES}
        return check_program(*words[1:])
    program = Path(words[0]).name
    assert program in FORMS, f"unknown program {program}: add a check for it to FORMS"
    return FORMS[program](*words[1:])


def check_make(*words):
    targets, variables = ({w.partition("=")[0] for w in words if ("=" in w) is given} for given in (False, True))
    assert targets <= set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    assert variables <= set(re.findall(r"^(\w+) *[?:]?=", MAKEFILE, re.MULTILINE))


def check_pip(verb, *packages):
    assert verb == "install"
    known = set(re.findall(r"^(\w+) = \[", extras_table(), re.MULTILINE))
    for package in packages:
        ours = re.fullmatch(r"(?:\.|\./it-losses|it-losses)(?:\[(\w+)\])?", package)
        if ours:
            assert ours[1] is None or ours[1] in known
        else:
            Requirement(package)


def extras_table():
    """The part of pyproject.toml that defines extras; Python 3.10 has no tomllib."""
    return (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]


def check_git(verb, address):
    assert verb == "clone" and address.removeprefix("https://github.com/") in hosts.REPOSITORIES.values()


def check_export(assignment):
    variable, _, folder = assignment.partition("=$PWD/")
    assert CHECKOUTS.get(folder) == variable


def check_apt(verb, package):
    assert verb == "download" and re.fullmatch(r"[a-z0-9-]+", package)


def check_dpkg(option, archive, folder):
    assert option == "-x" and archive.endswith("_*.deb") and folder.startswith("data/")


def check_torchrun(*words):
    options = get_args_parser().parse_args(words)
    assert options.module
    check_python("-m", options.training_script, *options.training_script_args)


def check_python(*words):
    if words[0] != "-m":
        return check_script(*words)
    module, *arguments = words[1:]
    for word in arguments:
        check_file(word)
    if module == "pydoc":
        assert all(map(pydoc.locate, arguments))
    elif module not in WITHOUT_OPTIONS:
        check_options(module, arguments)
    return None


def check_script(script, *arguments):
    """Check a command that runs another library's script. Files of the library are checked only if it is checked out."""
    check_file(script)
    options = argparse.ArgumentParser()
    options.add_argument("--config-path", type=Path, required=True)
    options.add_argument("--config-name", required=True)
    given, overrides = options.parse_known_args(arguments)
    assert all(re.fullmatch(r"\+?[\w.]+=\S+", override) for override in overrides)
    ours = given.config_path == Path("$CONFIGS")
    folder = ROOT / "adapters" / "solo_learn" / "configs" if ours else Path(script).parent / given.config_path
    check_file(str((folder / given.config_name).with_suffix(".yaml")))


def check_file(word):
    """Assert that a file exists. A file of another library is checked only if the library is checked out."""
    if not re.fullmatch(r"\S+/\S+\.\w+", word):
        return
    folder, _, path = word.partition("/")
    if folder in CHECKOUTS:
        home = Path(os.environ.get(CHECKOUTS[folder], ""))
        assert not home.parts or (home / path).is_file()
    else:
        assert (ROOT / word).is_file()


class OptionsAreReadError(BaseException):
    """Stops a program that has accepted its options."""


def check_options(module, arguments):
    """Start a program and stop it when it has accepted its options. If it refuses them, it raises SystemExit."""

    def read_and_stop(parser, words=None, namespace=None):
        read(parser, words, namespace)
        raise OptionsAreReadError

    read = argparse.ArgumentParser.parse_args
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OptionsAreReadError):
        patch.setattr(argparse.ArgumentParser, "parse_args", read_and_stop)
        # --help is left out, because it would end the program before the parser reads the other options
        patch.setattr(sys, "argv", [module, *(STANDS_FOR.get(word, word) for word in arguments if word != "--help")])
        runpy.run_module(module, run_name="__main__")


FORMS = {
    "make": check_make,
    "pip": check_pip,
    "git": check_git,
    "export": check_export,
    "apt-get": check_apt,
    "dpkg": check_dpkg,
    "torchrun": check_torchrun,
    "python": check_python,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", every_command())
def test_a_program_accepts_the_commands_of_the_pages(command):
    check(command)


WRONG = [
    "make tabel",
    "make table TABEL=--help",
    "pip install .[lightyl]",
    "pip install 'scikit learn'",
    "git clone https://github.com/nobody/solo-learn",
    "export SOLO_LEARN_HOME=$PWD/lightly",
    "python -m pytest tests/test_nothing.py",
    "python -m benchmarks.site.tutorials docs/tutorials/nothing.md",
    "python -m benchmarks.table1 --backbones resnet18",
    "python -m benchmarks.table1 --methods vicrag",
    "python -m benchmarks.table1.tuning --rates-only yes",
    "python -m benchmarks.paper figures --trails 5",
    "python -m benchmarks.speed --dtype float12",
    "python -m it_losses --self-tests-all",
    "python -m pydoc it_losses.VICRegEntropies",
    "torchrun --processes 2 -m benchmarks.examples.train_ddp",
    "torchrun --nproc-per-node 2 -m benchmarks.examples.train_ddp --stages 5",
    "python solo-learn/main_pretrain.py --config-path $CONFIGS --config-name cifar11",
    "conda install it-losses",
    "HOME_OF_LIGHTLY=../lightly make test",
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", [pytest.param(command, marks=marks(command)) for command in WRONG])
def test_a_command_with_a_mistake_is_refused(command):
    with pytest.raises((AssertionError, SystemExit, InvalidRequirement)):
        check(command)


@pytest.mark.parametrize("module", sorted(WITHOUT_OPTIONS - {"pytest"}))
def test_a_program_without_options_has_none(module):
    found = importlib.util.find_spec(
        f"{module}.__main__" if importlib.util.find_spec(module).submodule_search_locations else module
    )
    assert "argparse" not in Path(found.origin).read_text()
