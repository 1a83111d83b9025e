"""The methods, backbones and probes of the benchmarks."""

import benchmarks_extra  # noqa: F401
import pytest
import torch
import torch.nn.functional as F
from lightly.loss import VICRegLoss
from torch import nn

from benchmarks import backbones, probes
from benchmarks.methods import METHODS, Method, Momentum, Step
from benchmarks.probes import Features, knn_accuracy, linear_accuracy
from benchmarks.table1.recipes import RECIPES
from it_losses import EntropyRegularizer, VICReg


def small_backbone(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU())


def trained(criterion, steps=4):
    backbone = small_backbone()
    method = METHODS["vicreg"](16, hidden=16, output=24)
    method.criterion = criterion
    parameters = [*backbone.parameters(), *method.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    for step in range(steps):
        views = torch.randn(2, 32, 1, 8, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        method.loss(backbone, *views, Step(step, steps)).backward()
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


def test_swapping_lightlys_vicreg_for_ours_trains_the_same_network():
    torch.set_default_dtype(torch.float64)
    try:
        ours, theirs = trained(VICReg()), trained(VICRegLoss())
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", RECIPES)
def test_every_row_has_a_finite_loss_that_reaches_the_whole_backbone(name):
    recipe, backbone = RECIPES[name], small_backbone()
    assert all(setting.source for setting in recipe.settings.values())
    method = METHODS[recipe.method](16, **recipe.arguments)
    if isinstance(method, Momentum):
        method.begin(backbone)
    views = torch.randn(2, 32, 1, 8, 8)
    loss = method.loss(backbone, *views, Step(0, 10, torch.arange(32) % 10))
    loss.backward()
    assert loss.isfinite() and loss.ndim == 0
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in backbone.parameters())


def test_the_slow_copy_follows_the_network_and_gets_no_gradient():
    backbone = small_backbone()
    method = METHODS["byol"](16, **RECIPES["byol"].arguments)
    method.begin(backbone)
    before = next(method.target.parameters()).clone()
    with torch.no_grad():
        next(backbone.parameters()).add_(1.0)
    method.loss(backbone, *torch.randn(2, 32, 1, 8, 8), Step(0, 10)).backward()
    moved = next(method.target.parameters())
    step = 1 - RECIPES["byol"].arguments["momentum"]
    torch.testing.assert_close(moved - before, torch.full_like(before, step))
    assert moved.grad is None


@pytest.mark.parametrize(
    ("name", "shape"), [("resnet10t", (3, 32)), ("convnext_atto", (3, 32)), ("vit_tiny_patch16_224", (1, 32))]
)
def test_small_stems_keep_the_resolution_of_small_images(name, shape):
    channels, side = shape
    cells = []
    for stem in ("small", "original"):
        backbone = backbones.create(name, channels=channels, side=side, stem=stem)
        cells.append(backbone.forward_features(torch.zeros(2, channels, side, side)).flatten(1).shape[1])
    assert cells[0] > cells[1]


def test_the_half_stem_keeps_half_of_the_resolution_of_a_resnet():
    backbone = backbones.create("resnet18", channels=1, side=28, stem="half", width=0.25)
    assert backbone.maxpool(backbone.conv1(torch.zeros(1, 1, 28, 28))).shape[2:] == (14, 14)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet_18", {}, "resnet18"),
        ("convnext_atto", {"width": 0.5}, "ResNets"),
        ("convnext_atto", {"stem": "half"}, "ResNets"),
    ],
)
def test_an_unknown_backbone_and_options_of_resnets_for_another_network_are_errors(name, options, message):
    with pytest.raises(backbones.BackboneError, match=message):
        backbones.create(name, channels=3, side=32, **options)


def test_the_linear_probe_is_logistic_regression(monkeypatch):
    from sklearn.linear_model import LogisticRegression

    # classes of different size and a strong decay, under which a wrong scale of the loss shows in the predictions
    monkeypatch.setattr(probes, "PROBE_WEIGHT_DECAY", 0.2)
    labels = (torch.arange(400) % 7).clamp(max=3)
    points = torch.randn(4, 6)[labels] + 0.9 * torch.randn(400, 6)
    scaled = (points - points[:200].mean(0)) / points[:200].std(0)
    oracle = LogisticRegression(C=1 / (200 * 0.2), max_iter=1000).fit(scaled[:200].numpy(), labels[:200].numpy())
    accuracy = linear_accuracy(Features(points[:200], labels[:200], points[200:], labels[200:], 4))
    assert accuracy == pytest.approx(oracle.score(scaled[200:].numpy(), labels[200:].numpy()), abs=0.005)


def test_nearest_neighbours_follow_the_direction_and_not_the_length():
    train = torch.tensor([[1.0, 0.0], [5.0, 0.1], [0.0, 1.0], [0.1, 5.0]])
    labels = torch.tensor([0, 0, 1, 1])
    test = torch.tensor([[100.0, 1.0], [0.01, 1.0]])
    assert knn_accuracy(Features(train, labels, test, torch.tensor([0, 1]), 2)) == 1.0


def test_a_joint_embedding_sends_both_views_through_the_backbone_at_once():
    backbone = small_backbone()
    method = Method(nn.Identity(), lambda z_a, z_b: (z_a.mean(0) + z_b.mean(0)).abs().max())
    calls = []
    backbone.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    method.loss(backbone, *torch.randn(2, 8, 1, 8, 8), Step(0, 1))
    assert calls == [16]


@pytest.mark.parametrize("tensor", ["features", "projection", "prediction"])
@pytest.mark.parametrize("normalized", [True, False])
def test_the_entropy_beside_byol_is_that_of_the_tensor_which_is_named(tensor, normalized):
    views = torch.randn(2, 32, 1, 8, 8)
    backbone, arguments = small_backbone(), RECIPES["byol_logdet"].arguments
    method = METHODS["byol"](16, **arguments | {"regularized": tensor, "normalized": normalized})
    method.begin(backbone)
    seen = []
    hooked = {"features": backbone, "projection": method.projector, "prediction": method.predictor}[tensor]
    hooked.register_forward_hook(lambda module, inputs, output: seen.append(output))
    whole = method.loss(backbone, *views, Step(0, 10))
    z_a, z_b = seen[-1].detach().chunk(2)
    regularizer, method.regularizer = method.regularizer, None
    without = method.loss(backbone, *views, Step(0, 10))
    if normalized:
        z_a, z_b = (z / z.norm(dim=1, keepdim=True) for z in (z_a, z_b))
    torch.testing.assert_close(whole - without, regularizer(z_a, z_b))


def test_the_supervised_row_is_the_cross_entropy_of_both_views():
    views, labels, backbone = torch.randn(2, 32, 1, 8, 8), torch.arange(32) % 3, small_backbone()
    method = METHODS["supervised"](16, label_smoothing=0.2, classes=3)
    loss = method.loss(backbone, *views, Step(0, 10, labels))
    scores = method.classifier(backbone(views.flatten(0, 1)))
    torch.testing.assert_close(loss, F.cross_entropy(scores, labels.repeat(2), label_smoothing=0.2))


def test_an_entropy_added_to_vicreg_is_the_sum_of_both():
    weights = {"invariance_weight": 5.0, "variance_weight": 3.0, "covariance_weight": 2.0}
    method = METHODS["vicreg_and_entropy"](16, hidden=16, output=8, entropy="pairwise", entropy_weight=0.7, **weights)
    method.projector = nn.Identity()
    z_a, z_b = torch.randn(2, 32, 8)
    expected = VICReg(5.0, 3.0, 2.0)(z_a, z_b) + EntropyRegularizer("pairwise", 0.7)(z_a, z_b)
    torch.testing.assert_close(method.loss(nn.Identity(), z_a, z_b, Step(0, 1)), expected)
