"""The wheel is small, has no compiled part, contains exactly the expected files, and works without Triton."""

import email
import re
import subprocess
import sys
import zipfile

import pytest
import yaml

pytest.importorskip("setuptools", minversion="77", reason="needs pip install '.[tests]'")

import it_losses
from benchmarks import release
from benchmarks.pages import ROOT

pytestmark = pytest.mark.slow
ADDRESS = "https://example.org/owner/it-losses"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    tree = tmp_path_factory.mktemp("tree") / "release"
    release.lay_out(tree, ADDRESS)
    program = "import setuptools.build_meta; setuptools.build_meta.build_wheel('.')"
    subprocess.run([sys.executable, "-c", program], cwd=tree, check=True, capture_output=True)
    (path,) = tree.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_it_is_small_and_for_every_system(wheel):
    assert wheel.name == f"it_losses-{it_losses.__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < 200_000


def test_it_has_the_files_of_the_package_and_no_others(wheel):
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "it_losses").rglob("*.py")} | {"it_losses/py.typed"}
    for path in (path for kind in ("*.py", "*.yaml") for path in (ROOT / "adapters").rglob(kind)):
        inside = path.relative_to(ROOT / "adapters").as_posix()
        expected.add(inside if inside.startswith("hydra_plugins/") else f"it_losses/adapters/{inside}")
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == expected


def test_torch_is_all_that_it_requires(metadata):
    required = metadata.get_all("Requires-Dist")
    assert [name for name in required if "extra ==" not in name] == ["torch>=2.8"]
    assert not any("triton" in name.lower() for name in required)


def test_its_description_has_links_that_work_outside_of_the_repository(metadata):
    description = metadata.get_payload()
    targets = re.findall(r"\]\(([^)]+)\)", description)
    assert targets and all(target.startswith(("https://", "#")) for target in targets)
    version = f"v{it_losses.__version__}"
    assert f"]({ADDRESS}/raw/{version}/docs/images/inequality.svg)" in description
    assert f"]({ADDRESS}/blob/{version}/docs/limits.md)" in description


def test_it_trains_where_triton_cannot_be_imported(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = """
import sys
sys.modules["triton"] = None
import torch, it_losses
z_a, z_b = torch.randn(2, 16, 8, requires_grad=True)
for name in it_losses.ESTIMATORS:
    it_losses.VICRegEntropy(name)(z_a, z_b).backward()
print(it_losses.__file__)
"""
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{program}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path / "it_losses" / "__init__.py")


def test_an_index_of_packages_accepts_it(wheel):
    pytest.importorskip("twine", reason="needs pip install '.[dev]'")
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", str(wheel)], check=True)


def test_an_address_without_https_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="must start with https://"):
        release.lay_out(tmp_path, "somewhere")


def test_the_citation_and_the_changelog_name_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == it_losses.__version__
    assert f"\n## [{it_losses.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
