"""Each adapter, with its defaults, gives the value and gradient of its library. This file has the libraries' formulas."""

import subprocess
import sys

import hosts
import pytest
import ranks
import torch
import torch.distributed as dist
from torch.nn.functional import mse_loss, relu

from benchmarks import adapters as compare
from benchmarks.peers import official_vicreg
from it_losses import VICReg
from it_losses.adapters import conventions, eb_jepa, framework, lightly, stable_pretraining

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
FORMULAS = {}


def formula(library):
    return lambda function: FORMULAS.setdefault(library, function)


def hinge(z):
    return relu(1 - torch.sqrt(z.var(dim=0) + 1e-4)).mean()


def squared_covariances(z):
    covariance = torch.cov(z.T)
    return (covariance - covariance.diag().diag()).square().sum()


@formula("lightly")
@formula("stable-pretraining")
@formula("pytorch-metric-learning")
def official(a, b):
    energy = (squared_covariances(a) + squared_covariances(b)) / a.shape[1]
    return 25 * mse_loss(a, b) + 25 * (hinge(a) + hinge(b)) / 2 + energy


@formula("solo-learn")
def hinges_added(a, b):
    energy = (squared_covariances(a) + squared_covariances(b)) / a.shape[1]
    return 25 * mse_loss(a, b) + 25 * (hinge(a) + hinge(b)) + energy


@formula("eb_jepa")
def covariances_averaged(a, b):
    dim = a.shape[1]
    return mse_loss(a, b) + hinge(a) + hinge(b) + (squared_covariances(a) + squared_covariances(b)) / (dim * (dim - 1))


def value_and_gradient(criterion, z):
    z = z.clone().requires_grad_()
    loss = criterion(*z)
    loss.backward()
    return loss.detach(), z.grad


def assert_same_number(theirs, ours, z):
    (value, gradient), (other, other_gradient) = value_and_gradient(theirs, z), value_and_gradient(ours, z)
    tolerance = TOLERANCE[z.dtype]
    assert (value - other).abs() <= tolerance * value.abs(), f"value off by {((value - other) / value).abs():.1e}"
    error = (gradient - other_gradient).norm() / gradient.norm()
    assert error <= tolerance, f"gradient off by {error:.1e}"


def batch(dtype, *, scale=0.7):
    torch.manual_seed(0)
    return scale * torch.randn(2, 48, 24, dtype=dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("library", FORMULAS)
def test_defaults_give_the_number_of_the_librarys_formula(library, dtype):
    assert_same_number(FORMULAS[library], conventions.vicreg(library), batch(dtype))


def test_the_five_libraries_have_three_different_values():
    values = {round(float(f(*batch(torch.float64))), 6) for f in FORMULAS.values()}
    assert len(values) == 3


@pytest.mark.parametrize("library", conventions.ARGUMENTS)
def test_each_argument_of_a_library_sets_our_matching_argument(library):
    names = [name for name in conventions.ARGUMENTS[library] if name != "gather_distributed"]
    criterion = conventions.vicreg(library, **{name: 0.5 + i for i, name in enumerate(names)})
    assert isinstance(criterion, VICReg)
    for i, name in enumerate(names):
        assert getattr(criterion, conventions.ARGUMENTS[library][name]) == 0.5 + i


def test_unknown_libraries_and_arguments_say_which_there_are():
    with pytest.raises(ValueError, match="solo-learn"):
        conventions.vicreg("solo")
    with pytest.raises(ValueError, match="sim_loss_weight"):
        conventions.vicreg("solo-learn", lambda_param=1.0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_eb_jepas_dict_has_its_numbers_by_name(dtype):
    z = batch(dtype)
    criterion = eb_jepa.VICRegLoss(std_coeff=3.0, cov_coeff=80.0)
    a, b = z
    dim = a.shape[1]
    found = criterion(a, b)
    expected = {
        "invariance_loss": mse_loss(a, b),
        "var_loss": hinge(a) + hinge(b),
        "cov_loss": (squared_covariances(a) + squared_covariances(b)) / (dim * (dim - 1)),
    }
    assert set(found) == {"loss", *expected}
    for name, value in expected.items():
        assert (found[name] - value).abs() <= TOLERANCE[dtype] * value.abs(), name

    def total(a, b):
        energy = (squared_covariances(a) + squared_covariances(b)) / (dim * (dim - 1))
        return mse_loss(a, b) + 3 * (hinge(a) + hinge(b)) + 80 * energy

    assert_same_number(total, lambda a, b: criterion(a, b)["loss"], z)


def test_an_entropy_comes_as_a_dict_too_and_its_loss_back_propagates():
    z = batch(torch.float64).requires_grad_()
    found = eb_jepa.EntropyLoss("pairwise")(*z)
    assert set(found) == {"loss", "invariance_loss", "entropy"}
    found["loss"].backward()
    assert z.grad.isfinite().all() and z.grad.norm() > 0


def other_metric_learning(gather):
    pytest.importorskip("pytorch_metric_learning")
    from it_losses.adapters.pytorch_metric_learning import VICRegLoss

    criterion = VICRegLoss(gather_distributed=gather)
    return lambda a, b: criterion(a, ref_emb=b)


def attribute_set(gather):
    criterion = lightly.LogDetLoss(gather_distributed=not gather)
    criterion.gather_distributed = gather
    assert criterion.gather_distributed is gather
    return criterion


def eb_jepas(gather):
    criterion = eb_jepa.VICRegLoss(gather_distributed=gather)
    return lambda a, b: criterion(a, b)["loss"]


#: name -> function from the value of `gather_distributed` to a criterion
GATHERING = {
    "lightly VICReg": lambda gather: lightly.VICRegLoss(gather_distributed=gather),
    "lightly pairwise": lambda gather: lightly.PairwiseLoss(gather_distributed=gather),
    "lightly log-det, set later": attribute_set,
    "lightly regularizer": lambda gather: lightly.EntropyRegularized(official_of_no_rank, gather_distributed=gather),
    "solo-learn": lambda gather: conventions.vicreg("solo-learn", gather_distributed=gather),
    "eb_jepa": eb_jepas,
    "pytorch-metric-learning": other_metric_learning,
}


def official_of_no_rank(a, b):
    return a.new_zeros(())


def of_two_ranks(name):
    """Return this rank's losses with and without gathering, and the expected losses: of the whole batch and of its own half."""
    whole = torch.randn(2, 12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    half = whole[:, 6 * dist.get_rank() :][:, :6]
    found = [GATHERING[name](gather)(*half).item() for gather in (True, False)]
    dist.destroy_process_group()
    return found, [GATHERING[name](False)(*z).item() for z in (whole, half)]


@pytest.mark.parametrize("name", GATHERING)
def test_the_loss_is_of_all_ranks_only_with_gathering(name):
    if name == "pytorch-metric-learning":
        pytest.importorskip("pytorch_metric_learning")
    for found, truth in ranks.run(2, of_two_ranks, name):
        assert found == pytest.approx(truth, rel=1e-12)
        assert abs(truth[0] - truth[1]) > 1e-3


def test_adapters_gather_by_default_only_if_their_library_does():
    gathers = {name for name in conventions.ARGUMENTS if conventions.vicreg(name).distributed.gather_distributed}
    assert gathers == {"solo-learn", "stable-pretraining"}


class HostModule(torch.nn.Module):
    """A stand-in for stable-pretraining's Module, with the attributes that a forward function uses."""

    def __init__(self, criterion):
        super().__init__()
        self.backbone, self.projector = torch.nn.Flatten(), torch.nn.Linear(12, 7)
        self.vicreg_loss = criterion
        self.logged = {}

    def log_dict(self, values, **_):
        self.logged |= values


def views_of(count):
    return [{"image": torch.randn(6, 3, 2, 2), "label": torch.arange(6)} for _ in range(count)]


@pytest.mark.parametrize("wrap", [lambda v: {"views": v}, lambda v: {"a": v[0], "b": v[1], "c": v[2]}], ids=["list", "names"])
def test_the_forward_takes_three_views_and_logs_each_term(wrap):
    torch.manual_seed(0)
    views = views_of(3)
    module = HostModule(VICReg())
    out = stable_pretraining.forward(module, wrap(views), "fit")
    expected = VICReg()(*(module.projector(view["image"].flatten(1)) for view in views))
    torch.testing.assert_close(out["loss"], expected)
    assert out["embedding"].shape == (18, 12) and out["label"].shape == (18,)
    assert {"fit/loss", "fit/invariance", "fit/variance", "fit/covariance"} <= set(module.logged)


def test_forward_with_one_view_or_in_evaluation_mode_has_no_loss():
    module = HostModule(VICReg())
    assert set(stable_pretraining.forward(module, views_of(1)[0], "validate")) == {"embedding", "label"}
    assert "loss" not in stable_pretraining.forward(module.eval(), {"views": views_of(2)}, "validate")


def test_stable_pretrainings_own_loss_has_the_same_number():
    theirs = hosts.module("stable_pretraining.losses", "STABLE_PRETRAINING_HOME")
    for dtype in TOLERANCE:
        assert_same_number(theirs.VICRegLoss(), stable_pretraining.VICRegLoss(), batch(dtype))


def test_pytorch_metric_learnings_own_loss_has_the_same_number():
    theirs = pytest.importorskip("pytorch_metric_learning.losses", reason="pytorch-metric-learning is not installed")
    from it_losses.adapters import pytorch_metric_learning as ours

    for dtype in TOLERANCE:
        assert_same_number(
            lambda a, b: theirs.VICRegLoss()(a, ref_emb=b), lambda a, b: ours.VICRegLoss()(a, ref_emb=b), batch(dtype)
        )
    with pytest.raises(ValueError, match="other view"):
        ours.SelfSupervised(VICReg())(torch.randn(4, 3))
    with pytest.raises(ValueError, match="accepts no labels"):
        ours.VICRegLoss()(torch.randn(4, 3), torch.arange(4), ref_emb=torch.randn(4, 3), ref_labels=torch.arange(4))


def test_without_pytorch_metric_learning_the_adapter_gives_the_line_to_install_it():
    import importlib.util

    if importlib.util.find_spec("pytorch_metric_learning"):
        pytest.skip("pytorch-metric-learning is installed")
    with pytest.raises(ImportError, match="pip install pytorch-metric-learning"):
        import it_losses.adapters.pytorch_metric_learning  # noqa: F401


FRAMEWORKS = "lightly timm lightning pytorch_lightning hydra solo stable_pretraining eb_jepa pytorch_metric_learning"

#: modules in the order of their import, each with the only framework that its import may load
IMPORTS = [
    ("it_losses", ""),
    ("it_losses.adapters.conventions", ""),
    ("it_losses.adapters.backbones", ""),
    ("it_losses.adapters.lightly", ""),
    ("it_losses.adapters.stable_pretraining", ""),
    ("it_losses.adapters.eb_jepa", ""),
    ("it_losses.adapters.solo_learn", "hydra"),
    ("it_losses.adapters.lightning", "lightning"),
]


@pytest.mark.slow
def test_importing_one_adapter_imports_at_most_its_own_framework():
    code = f"""if True:
        import importlib, sys
        for name, own in {IMPORTS}:
            before = set(sys.modules)
            try:
                importlib.import_module(name)
            except ImportError as error:
                assert own and "pip install" in str(error), error
            new = {set(FRAMEWORKS.split())} & (set(sys.modules) - before)
            assert new <= {{own}}, (name, new)
    """
    answer = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_a_framework_that_is_missing_gives_the_line_and_one_that_is_broken_its_own_error(monkeypatch, tmp_path):
    with pytest.raises(ImportError, match=r"needs no_such_framework, which is not installed\. Run: pip install it"):
        framework("no_such_framework.losses", install="pip install it")
    (tmp_path / "broken_framework.py").write_text("import what_it_needs")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="what_it_needs"):
        framework("broken_framework", install="pip install it")


SMALL = ["--batch", "16", "--dim", "8", "--device", "cpu", "--steps", "3"]


@pytest.mark.filterwarnings("ignore")
def test_the_comparison_prints_both_numbers_and_leaves_out_missing_libraries(monkeypatch, capsys):
    absent, library = "stable-pretraining", compare.library_vicreg

    def installed(name):
        if name == absent:
            raise ImportError(f"pip install {absent}")
        return library("pytorch")

    monkeypatch.setattr(compare, "library_vicreg", installed)
    monkeypatch.setattr(compare, "in_fresh_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(compare, "_monitor_line", lambda options: "the monitor")
    compare.main(["all", *SMALL])
    printed = capsys.readouterr()
    table = [line.split(" | ") for line in printed.out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in table] == ["| library", *(f"| {name}" for name in compare.LIBRARIES if name != absent)]
    assert float(table[1][-2]) == pytest.approx(float(table[1][-1].strip(" |")), rel=1e-6)
    assert f"{absent} is skipped: pip install {absent}" in printed.err and "the monitor" in printed.out
    with pytest.raises(SystemExit, match="pip install"):
        compare.main([absent, *SMALL])


@pytest.mark.filterwarnings("ignore")
def test_the_monitor_costs_nothing_between_the_steps_it_measures(capsys):
    pytest.importorskip("lightning")
    compare.main(["lightning", *SMALL])
    line = capsys.readouterr().out.strip().splitlines()[-1]
    measured, between = (float(part.split()[0]) for part in line.partition(": ")[2].split(", "))
    assert between < 0.1 * measured


def test_the_formula_a_user_writes_is_the_authors():
    for dtype in TOLERANCE:
        assert_same_number(official, official_vicreg, batch(dtype))
        assert_same_number(official_vicreg, VICReg(), batch(dtype))
