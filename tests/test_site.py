"""The documentation site: its links, its made parts, and a reference with every public name."""

import pytest

pytest.importorskip("griffe", reason="the extra docs is not installed")
pytest.importorskip("matplotlib", reason="the extra benchmarks is not installed")

import it_losses
from benchmarks.site import api, made, sources
from it_losses import diagnostics, theory


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


def test_a_made_part_replaces_what_stands_in_its_place():
    assert "placeholder" not in made.filled("<!-- made: estimators -->\nplaceholder\n<!-- /made -->")
    with pytest.raises(KeyError):
        made.filled("<!-- made: nothing -->\n<!-- /made -->")


def test_the_reference_has_every_public_name():
    listed = "\n".join(api.pages().values()).split()
    modules = {"it_losses": it_losses, "it_losses.diagnostics": diagnostics, "it_losses.theory": theory}
    for module, names in ((name, value.__all__) for name, value in modules.items()):
        described = {"ESTIMATORS", "diagnostics", "functional", "theory"} if module == "it_losses" else set()
        assert {f"{module}.{name}" for name in set(names) - described} <= set(listed)


def test_a_public_name_without_a_docstring_stops_the_build():
    class_ = api.griffe.Class("Undocumented")
    with pytest.raises(LookupError, match="Undocumented"):
        api.check_documented(class_)
