"""The report: it follows from the recorded rows alone, is up to date with them, and its links lead somewhere."""

import json
import re
import shutil

import benchmarks_extra  # noqa: F401
import pytest

from benchmarks import report
from benchmarks.figures.networks import Setup
from benchmarks.table1 import answers, cli
from benchmarks.table1.command import NAMED, command_line

LINK = re.compile(r"\]\((?!\w+:|#)([^)#]+)")


def folder(results, name, files):
    path = results / name
    path.mkdir(parents=True)
    for file, content in files.items():
        (path / file).write_text(content)
    return path


def table(rows, rates=None, dataset="digits"):
    names = dict.fromkeys(row["method"] for row in rows)
    settings = dict.fromkeys(NAMED, 1) | {"dataset": dataset, "budget": {}}
    settings["rows"] = {name: {"learning_rate": (rates or {}).get(name, 2e-3), "momentum": 0.9} for name in names}
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    return {"table1.md": "the table\n", "table1.png": "", "settings.json": json.dumps(settings), "rows.jsonl": lines}


def rows(finished="2026-01-01", **scores):
    return [
        {"method": name, "seed": seed, "linear": score, "knn": 0.5, "commit": "abc", "device": "cpu", "finished": finished}
        for name, values in scores.items()
        for seed, score in enumerate(values)
    ]


def test_the_report_is_up_to_date_with_the_results():
    assert report.PAGE.read_text() == report.page(report.RESULTS, report.PAGE.parent), "run `make report`"


@pytest.mark.parametrize("path", sorted(report.PAGE.parent.glob("*.md")), ids=lambda path: path.name)
def test_every_link_of_the_documentation_leads_somewhere(path):
    links = LINK.findall(path.read_text())
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_index_knows_the_report_and_the_adapters():
    assert {"report.md", "adapters/README.md"} <= set(LINK.findall((report.PAGE.parent / "README.md").read_text()))


def test_nothing_recorded_is_said_with_the_command_that_would_record_it(tmp_path):
    page = report.page(tmp_path, tmp_path)
    for command in ("make table", "make tune", "make ablations", "make bench", "benchmarks.figures 5"):
        assert f"Not recorded yet: `{command}`" in page or f"Not recorded yet: `python -m {command}`" in page


def test_the_newest_rows_of_each_data_set_and_device_are_shown(tmp_path):
    old, late = rows("2026-01-01", vicreg=[0.5]), rows("2026-02-01", vicreg=[0.5])
    folder(tmp_path, "2026-01-02-cpu-table1", table(old))
    folder(tmp_path, "2026-01-01-cpu-table1-a", table(late))
    folder(tmp_path, "2026-01-02-cpu-table1-again", table(late))
    folder(tmp_path, "2026-01-01-gpu-table1", table(old))
    folder(tmp_path, "2026-01-01-cpu-table1-fashion", table(old, dataset="fashion_mnist"))
    folder(tmp_path, "not-dated", table(late))
    page = report.page(tmp_path, tmp_path)
    assert set(re.findall(r"\[(\S+-table1\S*)\]", page)) == {
        "2026-01-02-cpu-table1-again",
        "2026-01-01-gpu-table1",
        "2026-01-01-cpu-table1-fashion",
    }


def test_each_entropy_is_held_against_its_base():
    high, low = [0.93, 0.94, 0.95], [0.88, 0.89, 0.90]
    lines = answers.compared(rows(vicreg=low, vicreg_logdet=high, vicreg_pairdist=low, byol=high, byol_logdet=low))
    assert lines[0].startswith("- VICReg+LogDet against VICReg: by the linear probe it beats it (+5.0 ± 0.8 points, p = 0.00")
    assert lines[1].startswith("- VICReg+PairDist against VICReg: by the linear probe it is within the error (+0.0")
    assert lines[2].startswith("- BYOL+LogDet against BYOL: by the linear probe it does not beat it, but is worse (-5.0")
    assert all("by the kNN probe it is within the error" in line for line in lines)
    assert len(lines) == 3


def test_rows_that_the_grid_did_not_choose_are_named(tmp_path):
    made = rows(vicreg=[0.5], byol=[0.5])
    folder(tmp_path, "2026-01-02-cpu-table1", table(made, rates={"byol": 4e-3}))
    assert "No equal grid is recorded" in report.page(tmp_path, tmp_path)
    grid = "method,constant,value,learning_rate,best\nbyol,momentum,0.9,0.004,True\nbyol,momentum,0.9,0.001,False\n"
    grid += "vicreg,momentum,0.9,0.004,True\n"
    settings = json.dumps({"dataset": "digits"})
    folder(tmp_path, "2026-01-01-cpu-tuning", {"tuning.csv": grid, "README.md": "# Grid\n", "settings.json": settings})
    page = report.page(tmp_path, tmp_path)
    assert "1 of 2 rows have the settings that the equal grid of this page chose; not so: VICReg." in page


def test_an_embedded_page_fits_where_it_is_put(tmp_path):
    path = tmp_path / "results" / "a" / "README.md"
    path.parent.mkdir(parents=True)
    path.write_text("# Title\n\n    command\n\n## Part\n\n![x](x.png), [y](https://y.org/z)\n")
    links = "![x](../results/a/x.png), [y](https://y.org/z)"
    assert report.embedded(path, tmp_path / "docs") == ["    command", "", "### Part", "", links]


def test_a_figures_command_names_what_differs_from_the_defaults(tmp_path):
    recorded = next(report.RESULTS.glob("*/figure4.md")).parent
    shutil.copytree(recorded, tmp_path / recorded.name)
    page = tmp_path / recorded.name / "figure4.md"
    text = re.sub(r'"epochs": \d+', f'"epochs": {Setup.epochs}', page.read_text())
    page.write_text(re.sub(r'"trials": \d+', f'"trials": {Setup.trials + 2}', text))
    commands = re.findall(r"python -m benchmarks.figures 4 .*", report.page(tmp_path, tmp_path))
    assert len(commands) == 1
    assert f"--trials {Setup.trials + 2}" in commands[0] and "--epochs" not in commands[0]


@pytest.mark.parametrize(
    "asked",
    [
        "--seeds 2",
        "--dataset fashion_mnist --epochs 3 --methods vicreg byol --limit-images 90 --no-channels-last",
        "--preset cifar10-vit --devices 2 --seeds 4",
        "--methods untrained --seeds 1",
    ],
)
def test_a_tables_command_asks_for_what_made_it(asked, tmp_path):
    options = cli.parse(asked.split())
    settings = json.loads(json.dumps(options.settings()))
    made = [{"method": method, "seed": seed} for method in options.methods for seed in range(options.seeds)]
    again = command_line(settings, made).replace("DATA", str(tmp_path)).split()[3:]
    assert cli.parse(again).settings() == options.settings()
    assert (cli.parse(again).seeds, cli.parse(again).methods) == (options.seeds, options.methods)
    assert ("--data-root" in again) == (options.dataset != "digits")
