"""The code of every documentation page runs: Python blocks in order, both sides of a diff, and configurations."""

import contextlib
import io
import re
import textwrap
from pathlib import Path

import hosts
import pytest
import torch

from it_losses import VICRegEntropy

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ADAPTERS = ROOT / "docs" / "adapters"
#: languages of code blocks; test_page_commands.py checks sh blocks, and text blocks are not run
LANGUAGES = {"python", "diff", "yaml", "sh", "text"}
#: packages that a page may need and that a test environment may lack
OPTIONAL = {
    "eb_jepa",
    "jsonargparse",
    "lightly",
    "lightning",
    "matplotlib",
    "PIL",
    "pytorch_lightning",
    "pytorch_metric_learning",
    "sklearn",
    "stable_pretraining",
    "timm",
}

pytestmark = pytest.mark.filterwarnings("ignore")


def fenced(page):
    """Yield (language, program) of every code block. Empty lines before a program give errors the page's line numbers."""
    text = page.read_text()
    for block in re.finditer(r"^([ ]*)```(\S*)\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE):
        lines_before = text[: block.start(3)].count("\n")
        yield block[2], "\n" * lines_before + block[3]


def name(page):
    return str(page.relative_to(ROOT))


def programs(page):
    return [program for language, program in fenced(page) if language == "python"]


def is_a_program(diff):
    """Whether a diff changes a program of the reader, and not a configuration or a file of this repository."""
    return " import " in diff and "--- " not in diff


def changes():
    """Return (page, diff) for every diff that changes a program of the reader."""
    diffs = [(page, diff) for page in PAGES for language, diff in fenced(page) if language == "diff" and is_a_program(diff)]
    return [pytest.param(page, diff, id=f"{name(page)}-{diff.count(chr(10))}") for page, diff in diffs]


def side(diff, sign):
    """The program before (sign "-") or after (sign "+") the change of a diff."""
    other = {"-": "+", "+": "-"}[sign]
    return "".join("\n" if line.startswith(other) else line[1:] or "\n" for line in diff.splitlines(keepends=True))


def run(program, page, namespace):
    """Run a program. Return the name of a needed package that is not installed, or None."""
    try:
        exec(compile(program, name(page), "exec"), namespace)
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in OPTIONAL:
            raise
        return error.name
    return None


def run_all(page, programs):
    """Run programs one after another in one namespace. Then skip the test if one of them needed a missing package."""
    torch.manual_seed(0)
    namespace = {"__name__": "page"}
    missing = [run(program, page, namespace) for program in programs]
    if any(missing):
        pytest.skip(f"not installed: {', '.join(filter(None, missing))}")
    return namespace


def pages_with_programs():
    """Return every page with Python code. Tutorials are marked slow, because they train a network."""
    marks = {page: [pytest.mark.slow] for page in PAGES if page.parent.name == "tutorials"}
    return [pytest.param(page, marks=marks.get(page, []), id=name(page)) for page in PAGES if programs(page)]


@pytest.mark.parametrize("page", pages_with_programs())
def test_the_code_of_a_page_runs_in_its_order(page, tmp_path, monkeypatch):
    if 'os.environ["SOLO_LEARN_HOME"]' in page.read_text():
        hosts.checkout("SOLO_LEARN_HOME", "main_pretrain.py")
    monkeypatch.chdir(tmp_path)
    run_all(page, programs(page))


@pytest.mark.parametrize(("page", "diff"), changes())
def test_a_change_runs(page, diff):
    run_all(page, [side(diff, "+")])


@pytest.mark.parametrize(("page", "diff"), changes())
def test_the_changed_lines_run_too_and_a_swapped_import_changes_no_number(page, diff):
    before, after = run_all(page, [side(diff, "-")]), run_all(page, [side(diff, "+")])
    swaps_an_import_alone = not re.search(r"^[+-](?!(from|import) )", diff, re.MULTILINE)
    if "loss" in before and swaps_an_import_alone:
        torch.testing.assert_close(after["loss"], before["loss"], rtol=1e-6, atol=0)


def configurations():
    """Return (page, block) for every YAML block, and for every configuration after a diff."""
    blocks = [(page, language, block) for page in PAGES for language, block in fenced(page)]
    found = [(page, block) for page, language, block in blocks if language == "yaml"]
    changed = [(page, diff) for page, language, diff in blocks if language == "diff" and ": " in diff and "--- " not in diff]
    found += [(page, side(diff, "+")) for page, diff in changed if not is_a_program(diff)]
    return [pytest.param(page, block, id=f"{name(page)}-{block.count(chr(10))}") for page, block in found]


@pytest.mark.parametrize(("page", "block"), configurations())
def test_a_configuration_can_be_composed_and_its_objectives_have_a_value(page, block):
    hydra, omegaconf = pytest.importorskip("hydra"), pytest.importorskip("omegaconf")
    config = omegaconf.OmegaConf.create(textwrap.dedent(block))
    objectives = composed(hydra, config) if "method" in config else instances(hydra, config)
    for objective in objectives:
        assert objective(*torch.randn(2, 16, 8)).isfinite()


def composed(hydra, config):
    """Return the objectives of a solo-learn configuration. Our shipped configuration must have its method and options."""
    from it_losses.adapters.solo_learn import CONFIGS

    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.2"):
        known = hydra.compose("cifar10", [f"it_losses={config.method}"])
    given = config.get("method_kwargs", {})
    assert known.method == config.method and given.keys() <= known.method_kwargs.keys()
    return [VICRegEntropy(given.entropy, **given.entropy_options)] if "entropy" in given else []


def instances(hydra, config):
    """Create every entry with a `_target_`, and return the objectives. Entries that are callbacks need solo-learn."""
    found = [hydra.utils.get_class(node._target_) for node in targets(config)]
    assert found
    if not all(issubclass(kind, torch.nn.Module) for kind in found):
        hosts.module("solo.methods", "SOLO_LEARN_HOME")
    created = [hydra.utils.instantiate(node) for node in targets(config)]
    return [objective for objective in created if isinstance(objective, torch.nn.Module)]


def targets(config):
    """Return the outermost entries with a `_target_`, the name of a class."""
    if "_target_" in config:
        return [config]
    return [found for entry in config.values() if hasattr(entry, "values") for found in targets(entry)]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_of_code_names_a_language_that_tells_whether_it_is_run(page):
    assert {language for language, _ in fenced(page)} <= LANGUAGES


@pytest.mark.parametrize("page", [ROOT / "README.md", *ADAPTERS.glob("[!R]*.md")], ids=name)
def test_the_readme_and_the_pages_of_adapters_have_code(page):
    assert list(fenced(page))


@pytest.mark.slow
def test_the_first_program_of_a_newcomer_is_the_example_that_can_be_run_and_training_helps():
    page = ROOT / "docs" / "get_started.md"
    program = programs(page)[0]
    assert program.lstrip("\n") == (ROOT / "benchmarks" / "examples" / "minimal.py").read_text()
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        run_all(page, [program])
    untrained, trained = (float(accuracy) for accuracy in re.findall(r"trained: ([\d.]+)%", shown.getvalue()))
    assert trained > untrained + 10


def test_every_adapter_has_its_page():
    adapters = {"lightly", "solo_learn", "stable_pretraining", "lightning", "eb_jepa", "pytorch_metric_learning"}
    assert adapters == {page.stem for page in ADAPTERS.glob("*.md")} - {"README"}
    index = (ADAPTERS / "README.md").read_text()
    assert all(f"({adapter}.md)" in index for adapter in adapters)
