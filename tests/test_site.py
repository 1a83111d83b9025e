"""The documentation site has working links, generated parts that are up to date, and a reference with every public name."""

import json
import random
import re
import shutil
import subprocess

import pytest
import torch

pytest.importorskip("griffe", reason="needs pip install '.[docs]'")
pytest.importorskip("matplotlib", reason="needs pip install '.[benchmarks]'")

import griffe

import it_losses
from benchmarks.pages import RESULTS
from benchmarks.report import PAGE
from benchmarks.site import api, calculator, made, sources, tables, tutorials
from it_losses import diagnostics, theory
from it_losses.vicreg_conventions import CONVENTIONS, VICRegWeights, official_weights

PAGES = [sources.ROOT / "README.md", sources.ROOT / "CONTRIBUTING.md", *sorted((sources.ROOT / "docs").rglob("*.md"))]


def test_a_link_is_right_in_the_repository_and_in_the_site():
    text = "[a](../CONTRIBUTING.md#add) ![b](../benchmarks/results/x/plot.png) [c](adapters/lightly.md) [d](https://e.f/g.md)"
    assert sources.relinked(text, "limits.md") == (
        "[a](contributing.md#add) ![b](results/x/plot.png) [c](adapters/lightly.md) [d](https://e.f/g.md)"
    )


def test_a_page_that_is_moved_keeps_its_links():
    assert sources.relinked("[a](docs/limits.md) [b](docs/README.md)", "index.md") == "[a](limits.md) [b](index.md)"


def test_a_link_to_a_folder_leads_to_its_page():
    folder = sorted((sources.ROOT / sources.RESULTS).glob("*-cpu-table1"))[-1]
    assert sources.relinked(f"[a](../{sources.RESULTS}/{folder.name})", "report.md") == f"[a](results/{folder.name}/index.md)"


def test_a_made_part_replaces_the_text_in_its_place():
    assert "placeholder" not in made.written("<!-- made: estimators -->\nplaceholder\n<!-- /made -->")
    assert "placeholder" not in made.filled("<!-- made: calculator -->\nplaceholder\n<!-- /made -->")
    with pytest.raises(KeyError):
        made.filled("<!-- made: nothing -->\n<!-- /made -->")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_made_part_of_a_page_is_made(page):
    names = [block[1] for block in made.BLOCK.finditer(page.read_text())]
    assert set(names) <= made.MADE.keys() | made.PLOTS.keys() | made.IN_THE_SITE.keys()
    assert page.read_text().count("<!-- made:") == page.read_text().count("<!-- /made -->") == len(names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_made_parts_of_a_page_are_up_to_date(page):
    assert page.read_text() == made.written(page.read_text()), "run `make report`"


@pytest.mark.parametrize("name", made.MADE)
def test_made_parts_are_not_empty_and_their_tables_are_rectangular(name):
    text = made.MADE[name]()
    assert text
    rows = [re.sub(r"`[^`]*`", "", line).count("|") for line in text.splitlines() if line.startswith("|")]
    assert len(set(rows)) <= 1


@pytest.mark.slow
def test_plots_are_drawn_for_light_and_dark_pages():
    files = made.plot_files()
    assert len(files) == 2 * len(made.PLOTS)
    assert all(svg.count("<path") > 3 for svg in files.values())


@pytest.mark.parametrize("page", [page for page in PAGES if page != PAGE], ids=lambda page: page.name)
def test_a_number_with_a_standard_error_stands_in_the_page_of_a_record_too(page):
    quoted = re.findall(r"\d+\.\d+\s±\s\d+\.\d+", page.read_text())
    recorded = PAGE.read_text() + "".join(path.read_text() for path in RESULTS.glob("*/README.md"))
    assert [number for number in quoted if " ".join(number.split()) not in recorded] == []


def test_the_table_of_choice_has_the_numbers_of_the_report():
    # skip the names and the times, which come from the speed page. The standard error is optional, because results of one
    # seed have none
    cells = ["|".join(line.split("|")[3:]) for line in tables.choice().splitlines()[2:]]
    quoted = [number for cell in cells for number in re.findall(r"\d+\.\d+(?: ± \d+\.\d+)?", cell)]
    assert len(quoted) == 3 * len(tables.OBJECTIVES) + 3
    report = PAGE.read_text()
    assert [number for number in quoted if number not in report] == []


def criteria_of_published_losses():
    """Return the code of each criterion in the table of published losses, with values for the names in it."""
    lines = [line for line in (sources.ROOT / "docs" / "idea.md").read_text().splitlines() if line.startswith("| ")]
    constants = {"tau": 0.1, "batch": 16, "dim": 8, **{name: getattr(it_losses, name) for name in it_losses.__all__}}
    spans = [span for line in lines for span in re.findall(r"`((?:VICReg|EntropyRegularizer)\w*\(.*?\))`", line)]
    return [(span, constants) for span in spans if "..." not in span]


@pytest.mark.parametrize(("span", "constants"), criteria_of_published_losses())
def test_the_code_in_the_table_of_published_losses_runs(span, constants):
    views = torch.randn(2, constants["batch"], constants["dim"], requires_grad=True)
    eval(span, constants)(*views).backward()


def test_a_tutorial_is_shown_with_its_output_and_plots_and_as_a_notebook():
    program = "from matplotlib import pyplot\nopen('x', 'w').close()\nprint(6 * 7)\npyplot.plot([1, 2]);\n"
    # a tutorial must not show figures that were open before. It would draw into one of them, so only the other shows a fault
    for _ in range(2):
        tutorials.pyplot.figure()
    cells = tutorials.run(f"# Title\n\nText.\n\n```python\n{program}```\n\nMore.\n")
    files = tutorials.files("name", cells)
    assert files["tutorials/name-0.png"].startswith(b"\x89PNG")
    assert "```text\n42\n```\n\n![" in files["tutorials/name.md"]
    cells = json.loads(files["tutorials/name.ipynb"])["cells"]
    assert [cell["cell_type"] for cell in cells] == ["markdown", "code", "markdown"]
    assert [output["output_type"] for output in cells[1]["outputs"]] == ["stream", "display_data"]
    assert not (sources.ROOT / "x").exists()


def test_a_recorded_tutorial_is_shown_as_it_ran_until_its_programs_change():
    page = "# Title\n\n```python\nfrom matplotlib import pyplot\nprint(6 * 7)\npyplot.plot([1, 2]);\n```\n\nText.\n"
    ran = tutorials.run(page)
    assert tutorials.recorded(page, tutorials.notebook(ran)) == ran
    assert tutorials.recorded(page.replace("Text", "Another text"), tutorials.notebook(ran))[1] == ran[1]
    with pytest.raises(ValueError, match="has changed since"):
        tutorials.recorded(page.replace("6 * 7", "6 * 8"), tutorials.notebook(ran))


@pytest.mark.parametrize("record", sorted(tutorials.FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_recorded_tutorials_are_up_to_date_with_their_pages(record):
    files = tutorials.files(record.stem, tutorials.cells(record.with_suffix(".md")))
    assert any(name.endswith(".png") for name in files)


def test_a_tutorial_that_fails_stops_the_build():
    with pytest.raises(ZeroDivisionError):
        tutorials.run("# Title\n\n```python\n1 / 0\n```\n")


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_factors_of_the_calculator_equal_the_criterias(convention):
    for dim in random.sample(range(2, 10000), 20):
        official = official_weights(VICRegWeights(1.0, 1.0, 1.0), dim=dim, convention=convention)
        factors = [times * dim**power * (dim - 1) ** less for times, power, less in calculator.factors(convention)]
        assert factors == pytest.approx(list(official))


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_calculator_gives_weights_of_the_same_loss():
    libraries, dim, weights = calculator.libraries(), 300, [7.0, 5.0, 3.0]
    script = (
        f"const {{ translated }} = require({json.dumps(str(sources.ROOT / 'docs/assets/calculator.js'))});"
        f"const libraries = {json.dumps(libraries)}; const found = [];"
        "for (const [from, a] of Object.entries(libraries)) for (const [to, b] of Object.entries(libraries))"
        f"found.push([from, to, translated(a, b, {weights}, {dim})]); console.log(JSON.stringify(found));"
    )
    found = json.loads(subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True).stdout)
    assert len(found) == len(libraries) ** 2
    for start, end, result in found:
        wanted = official_weights(VICRegWeights(*weights), dim=dim, convention=libraries[start]["convention"])
        reached = official_weights(VICRegWeights(*result["weights"]), dim=dim, convention=libraries[end]["convention"])
        assert [result["scale"] * weight for weight in reached] == pytest.approx(list(wanted))


def test_the_reference_has_every_public_name():
    listed = "\n".join(api.pages().values()).split()
    modules = {"it_losses": it_losses, "it_losses.diagnostics": diagnostics, "it_losses.theory": theory}
    for module, names in ((name, value.__all__) for name, value in modules.items()):
        described = {"ESTIMATORS", "diagnostics", "functional", "theory"} if module == "it_losses" else set()
        assert {f"{module}.{name}" for name in set(names) - described} <= set(listed)


def test_a_public_name_without_a_docstring_stops_the_build():
    with pytest.raises(LookupError, match="no docstring of Undocumented"):
        api.check_documented([griffe.Class("Undocumented")])
