"""Every adapter's page runs: its Python blocks, and each diff twice, as it was before the change and as it is after."""

import re
from pathlib import Path

import pytest
import torch

PAGES = Path(__file__).parents[1] / "docs" / "adapters"
#: what a page may need that a test environment may lack
OPTIONAL = {
    "lightly",
    "pytorch_lightning",
    "lightning",
    "timm",
    "stable_pretraining",
    "pytorch_metric_learning",
    "eb_jepa",
    "jsonargparse",
    "PIL",
    "sklearn",
}

pytestmark = pytest.mark.filterwarnings("ignore")


def blocks(language):
    return list(_blocks(language))


def _blocks(language):
    for page in sorted(PAGES.glob("*.md")):
        for i, text in enumerate(re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)):
            if language == "python" or "import" in text:
                yield pytest.param(text, id=f"{page.stem}-{i}")


def side(diff, sign):
    """The program before (-) or after (+) the change."""
    other = {"-": "+", "+": "-"}[sign]
    return "".join(line[1:] for line in diff.splitlines(keepends=True) if not line.startswith(other))


def run(program):
    namespace = {"__name__": "page"}
    torch.manual_seed(0)
    try:
        exec(compile(program, "page", "exec"), namespace)
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in OPTIONAL:
            raise
        pytest.skip(f"{error.name} is not installed")
    return namespace


@pytest.mark.parametrize("program", blocks("python"))
def test_a_block_runs(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(program)


@pytest.mark.parametrize("diff", blocks("diff"))
def test_a_change_runs(diff):
    run(side(diff, "+"))


@pytest.mark.parametrize("diff", blocks("diff"))
def test_what_it_changes_runs_too_and_a_swapped_import_changes_no_number(diff):
    before, after = run(side(diff, "-")), run(side(diff, "+"))
    swaps_an_import_alone = not re.search(r"^[+-](?!(from|import) )", diff, re.MULTILINE)
    if "loss" in before and swaps_an_import_alone:
        torch.testing.assert_close(after["loss"], before["loss"], rtol=1e-6, atol=0)


def test_every_adapter_has_its_page():
    adapters = {"lightly", "solo_learn", "stable_pretraining", "lightning", "eb_jepa", "pytorch_metric_learning"}
    assert adapters == {page.stem for page in PAGES.glob("*.md")} - {"README"}
    index = (PAGES / "README.md").read_text()
    assert all(f"({adapter}.md)" in index for adapter in adapters)
