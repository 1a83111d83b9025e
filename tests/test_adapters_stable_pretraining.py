"""The stable-pretraining adapter: LeJEPA uses our SIGReg, YAML can name any estimator, and `forward` accepts several views."""

import copy
import pickle

import hosts
import pytest
import ranks
import torch
import torch.distributed as dist

from it_losses import ESTIMATORS, VICRegEntropy
from it_losses.adapters.stable_pretraining import SlicedEppsPulley, forward
from it_losses.slices import unit_directions

F64 = torch.float64


def batch(rows=24, dim=6):
    return (0.4 + torch.randn(rows, dim, generator=torch.Generator().manual_seed(3), dtype=F64)).requires_grad_()


def statistic(z, *, slices, t_max, points):
    """The mean over slices of `N int phi(t) |ecf(t) - phi(t)|^2 dt`, with the integral from -t_max to t_max.

    ecf is the empirical characteristic function of the N projected samples, and phi(t) = exp(-t^2 / 2).
    The integrand is symmetric, so the points need only cover [0, t_max].
    """
    x = z @ unit_directions(slices, z.shape[1], seed=0, draw=0, like=z).T
    t = torch.linspace(0, t_max, points, dtype=F64)
    ecf, phi = torch.exp(1j * x[:, :, None] * t).mean(dim=0), torch.exp(-t * t / 2)
    integral = 2 * torch.trapezoid(phi * (ecf - phi).abs().square(), t, dim=-1)
    return len(z) * integral.mean()


def evaluated(criterion, z):
    value = criterion(z)
    return value.detach(), *torch.autograd.grad(value, z)


@pytest.mark.parametrize("slices,t_max,points", [(1024, 3.0, 17), (40, 2.0, 9)])
def test_the_statistic_and_its_gradient(slices, t_max, points):
    ours = SlicedEppsPulley(slices, t_max, points)
    expected = evaluated(lambda z: statistic(z, slices=slices, t_max=t_max, points=points), batch())
    torch.testing.assert_close(evaluated(ours, batch()), expected, rtol=1e-12, atol=1e-14)


def test_the_number_is_that_of_stable_pretraining_for_the_same_slices():
    lejepa = hosts.module("stable_pretraining.methods.lejepa", "STABLE_PRETRAINING_HOME")
    theirs, z = lejepa.SlicedEppsPulley(num_slices=64).double(), batch()
    projected = z @ unit_directions(64, z.shape[1], seed=0, draw=0, like=z).T
    torch.testing.assert_close(SlicedEppsPulley(64)(z), theirs.ep(projected).mean(), rtol=1e-6, atol=0)
    views = torch.randn(4, 12, 6, dtype=F64)
    loss, invariance, term = lejepa.LeJEPA._compute_loss(views, 2, SlicedEppsPulley(64), 0.02)
    torch.testing.assert_close(loss, invariance + 0.02 * term)


def test_a_resumed_run_goes_on_with_the_next_slices():
    criterion, z = SlicedEppsPulley(16), batch()
    first = criterion(z).item()
    saved = torch.nn.ModuleDict({"sigreg": criterion}).state_dict()
    second = criterion(z).item()
    assert set(saved) == {"sigreg.global_step"} and first != second
    resumed = torch.nn.ModuleDict({"sigreg": SlicedEppsPulley(16)})
    # a state dict saved by stable-pretraining also holds constant buffers, which our class must accept
    tables = {f"sigreg.ep.{name}": torch.zeros(17) for name in ("t", "phi", "weights")}
    resumed.load_state_dict(saved | tables)
    assert resumed["sigreg"].global_step == 1
    assert resumed["sigreg"](z).item() == second
    resumed.load_state_dict({})
    with pytest.raises(RuntimeError, match=r"ep\.other"):
        resumed.load_state_dict(saved | {"sigreg.ep.other": torch.zeros(17)})


def test_it_is_copied_pickled_and_set():
    criterion, z = SlicedEppsPulley(16, n_points=9).eval(), batch()
    for other in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert other(z) == criterion(z)
    before = criterion(z)
    criterion.num_slices = 8
    assert criterion.num_slices == 8 and criterion(z) != before
    for wrong in ({"num_slices": 0}, {"t_max": 0.0}, {"n_points": 1}):
        with pytest.raises(ValueError, match="must be"):
            SlicedEppsPulley(**wrong)


def on_two_ranks():
    """Return this rank's (value, gradient), and the expected pair from one process with all samples."""
    z = batch()
    own = slice(0, 9) if dist.get_rank() == 0 else slice(9, 24)
    found = evaluated(SlicedEppsPulley(32), z[own].detach().requires_grad_())
    dist.destroy_process_group()
    value, gradient = evaluated(SlicedEppsPulley(32), z)
    # DDP averages the gradients of the ranks, so the gradient on each of two ranks is twice as large
    return found, (value, 2 * gradient[own])


def test_the_gradient_on_two_ranks_is_that_of_one_process():
    for found, expected in ranks.run(2, on_two_ranks):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


#: estimator -> its options in the YAML
OPTIONS = {
    "renyi": {"order": 1.0},
    "sigreg": {"convention": "stable-pretraining", "slices": 16},
    "pairwise": {"bandwidth": [0.5, 1.0]},
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_any_estimator_is_a_target_in_its_yaml(name):
    hydra, omegaconf = pytest.importorskip("hydra"), pytest.importorskip("omegaconf")
    options = OPTIONS.get(name, {})
    cls = f"{ESTIMATORS[name].__module__}.{ESTIMATORS[name].__name__}"
    yaml = omegaconf.OmegaConf.create(
        {"vicreg_loss": {"_target_": "it_losses.VICRegEntropy", "_convert_": "all", "entropy": {"_target_": cls, **options}}}
    )
    by_name = omegaconf.OmegaConf.create(
        {"_target_": "it_losses.VICRegEntropy", "_convert_": "all", "entropy": name, **options}
    )
    z = batch(32), batch(32).flip(0)
    expected = VICRegEntropy(name, **options)(*z)
    for criterion in (hydra.utils.instantiate(yaml)["vicreg_loss"], hydra.utils.instantiate(by_name)):
        torch.testing.assert_close(criterion(*z), expected, rtol=0, atol=0)


class HostModule(torch.nn.Module):
    """A stand-in for stable-pretraining's Module, with the attributes that a forward function uses."""

    backbone, projector, vicreg_loss = torch.nn.Flatten(), torch.nn.Identity(), VICRegEntropy("log_det")

    def log_dict(self, values, **_):
        self.logged = values


WRAPPED = {
    "list": lambda views: {"views": list(views.values())},
    "names in views": lambda views: {"views": views},
    "names": lambda views: views,
}
each_wrapping = pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)


def named_views():
    return {name: {"image": torch.randn(6, 3, 2, 2), "label": torch.arange(6)} for name in ("global", "local", "other")}


@each_wrapping
def test_the_number_that_stable_pretraining_adds_to_a_batch_is_not_a_view(wrap):
    views, module = named_views(), HostModule()
    expected = module.vicreg_loss(*(view["image"].flatten(1) for view in views.values()))
    out = forward(module, wrap(views) | {"batch_idx": 0}, "fit")
    torch.testing.assert_close(out["loss"], expected, rtol=0, atol=0)
    assert out["embedding"].shape == (18, 12) and out["label"].shape == (18,)
    of_one_view = forward(module.eval(), {**named_views()["local"], "batch_idx": 0}, "validate")
    assert of_one_view["embedding"].shape == (6, 12) and set(of_one_view) == {"embedding", "label"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@each_wrapping
def test_views_by_name_or_in_a_list_train_in_its_own_module(wrap, tmp_path):
    spt = hosts.module("stable_pretraining", "STABLE_PRETRAINING_HOME")
    hosts.module("stable_pretraining.module")
    lightning = hosts.module("lightning")
    module = spt.Module(
        forward=forward,
        backbone=torch.nn.Flatten(),
        projector=torch.nn.Linear(12, 8),
        vicreg_loss=VICRegEntropy("log_det"),
        optim={"optimizer": {"type": "SGD", "lr": 0.01}},
    )
    before = module.projector.weight.detach().clone()
    trainer = lightning.Trainer(fast_dev_run=2, accelerator="cpu", default_root_dir=tmp_path, enable_progress_bar=False)
    trainer.fit(module, torch.utils.data.DataLoader([wrap(named_views()) for _ in range(2)], batch_size=None))
    assert {"fit/loss", "fit/invariance", "fit/entropy"} <= set(trainer.callback_metrics)
    assert not torch.equal(module.projector.weight, before)
