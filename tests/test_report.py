"""docs/report.md follows from the recorded rows alone and is up to date. Every link in the documentation has a target."""

import json
import re
import subprocess

import benchmarks_extra  # noqa: F401
import pytest

from benchmarks import pages, report

LINK = re.compile(r"\]\((?!\w+:|#)([^)#]+)")


def folder(results, name, made=(), **settings):
    """Write a folder of results: README.md, and rows.jsonl with the settings and the rows `made`."""
    path = results / name
    path.mkdir(parents=True)
    (path / "README.md").write_text(f"# Title of {name}\n\nIts text\n")
    (path / "rows.jsonl").write_text("\n".join(map(json.dumps, [{"dataset": "digits"} | settings, *made])))
    return path


def rows(finished="2026-01-01", **scores):
    runs = [(name, seed, score) for name, values in scores.items() for seed, score in enumerate(values)]
    return [{"method": name, "seed": seed, "linear": score, "knn": 0.5, "finished": finished} for name, seed, score in runs]


def test_the_report_is_up_to_date_with_the_results():
    assert report.PAGE.read_text() == report.page(report.RESULTS, report.PAGE.parent), "run `make report`"


@pytest.mark.parametrize("path", sorted(report.PAGE.parent.glob("*.md")), ids=lambda path: path.name)
def test_the_target_of_every_link_of_the_documentation_exists(path):
    links = LINK.findall(path.read_text())
    assert links and [link for link in links if not (path.parent / link).exists()] == []


def test_the_index_links_the_report_and_the_adapters():
    assert {"report.md", "adapters/README.md"} <= set(LINK.findall((report.PAGE.parent / "README.md").read_text()))


def test_the_report_names_the_command_for_everything_that_is_not_recorded(tmp_path):
    page = report.page(tmp_path, tmp_path)
    assert all(f"Not recorded yet: `{command}`" in page for command in report.CONTENTS.values())


def test_the_newest_rows_of_each_data_set_and_device_are_shown(tmp_path):
    old, late = rows("2026-01-01", vicreg=[0.5]), rows("2026-02-01", vicreg=[0.5])
    folder(tmp_path, "2026-01-02-cpu-table1", late)
    folder(tmp_path, "2026-01-01-cpu-table1-a", late)
    folder(tmp_path, "2026-01-02-cpu-table1-earlier", old)
    folder(tmp_path, "2026-01-01-gpu-table1", old)
    folder(tmp_path, "2026-01-01-cpu-table1-fashion", old, dataset="fashion_mnist")
    folder(tmp_path, "not-dated", late)
    (folder(tmp_path, "2026-01-03-cpu-table1-half-made", late) / "README.md").unlink()
    found = set(re.findall(r"\[(\S+-table1\S*)\]", report.page(tmp_path, tmp_path)))
    assert found == {"2026-01-02-cpu-table1", "2026-01-01-gpu-table1", "2026-01-01-cpu-table1-fashion"}


def test_networks_on_one_data_set_are_columns_of_one_table(tmp_path):
    folder(tmp_path, "2026-01-01-cpu-table1", rows(vicreg=[0.5], byol=[0.25]), backbone="resnet18")
    assert "by network" not in report.page(tmp_path, tmp_path)
    folder(tmp_path, "2026-01-01-cpu-table1-vit", rows(vicreg=[0.75, 0.75]), backbone="vit_tiny")
    page = report.page(tmp_path, tmp_path)
    assert "| linear % | resnet18 | vit_tiny |\n|---|---:|---:|\n| VICReg | 50.0 | 75.0 ± 0.0 |" in page
    assert "SimCLR" not in page


def test_rows_that_the_grid_did_not_choose_are_named(tmp_path):
    used = {"vicreg": {"learning_rate": 2e-3, "covariance_weight": 1.0}, "byol": {"learning_rate": 4e-3, "momentum": 0.9}}
    folder(tmp_path, "2026-01-02-cpu-table1", rows(vicreg=[0.5], byol=[0.5]), budget={}, rows=used)
    folder(tmp_path, "2025-12-31-cpu-tuning-wide", rows(**{"byol-rate0.004-momentum0.9": [0.9]}), width=0.5)
    assert "No search of the settings is recorded for this data set and network" in report.page(tmp_path, tmp_path)
    grid = {"byol-rate0.004-momentum0.9": [0.9], "byol-rate0.001-momentum0.9": [0.8]}
    folder(tmp_path, "2026-01-01-cpu-tuning", rows(**grid | {"vicreg-rate0.004-covariance_weight1": [0.7]}))
    said = "1 of 2 rows use the settings that the search on this page chose. These rows use others: VICReg."
    assert said in report.page(tmp_path, tmp_path)


def test_remarks_are_kept_with_their_comments_and_an_embedded_page_fits_where_it_is_put(tmp_path):
    assert pages.notes(tmp_path) == ""
    remarks = "<!-- notes -->\n\nOne.\n\n## Two\n\nThree.\n\n<!-- /notes -->"
    path = folder(tmp_path / "results", "a") / "README.md"
    path.write_text(f"# Title\n\n    command\n\n{remarks}\n\n## Part\n\n![x](x.png), [y](https://y.org/z)\n")
    assert pages.notes(path.parent) == remarks
    text = "    command\n\nOne.\n\n### Two\n\nThree.\n\n### Part\n\n![x](../results/a/x.png), [y](https://y.org/z)"
    assert report.embedded(path, tmp_path / "docs") == ("Title", text)


def test_a_commit_is_dirty_where_code_differs_and_not_where_rows_are_added(tmp_path, monkeypatch):
    code, recorded = tmp_path / "code.py", folder(tmp_path / "benchmarks" / "results", "a") / "rows.jsonl"
    code.write_text("1")
    for command in ("init -q", "add .", "-c user.name=a -c user.email=a@b.c commit -qm first"):
        subprocess.run(["git", "-C", str(tmp_path), *command.split()], check=True)
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    commit = pages._commit()
    recorded.write_text("2")
    assert re.fullmatch(r"[0-9a-f]{7,}", commit) and pages._commit() == commit
    code.write_text("2")
    assert pages._commit() == commit + "-dirty"
