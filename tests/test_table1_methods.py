"""The methods, backbones and probes of Table 1 follow their definitions."""

import benchmarks_extra  # noqa: F401
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import nn

from benchmarks import backbones, probes
from benchmarks.methods import METHODS, Method, Momentum, Step
from benchmarks.probes import Features, knn_accuracy, linear_accuracy
from benchmarks.table1.recipes import RECIPES
from it_losses import EntropyRegularizer, VICReg


def small_backbone():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU())


@pytest.mark.parametrize("name", RECIPES)
def test_every_row_has_a_finite_loss_that_reaches_the_whole_backbone(name):
    recipe, backbone = RECIPES[name], small_backbone()
    assert all(setting.source for setting in recipe.settings.values())
    method = METHODS[recipe.method](16, **recipe.arguments)
    if isinstance(method, Momentum):
        method.begin(backbone)
    loss = method.loss(backbone, *torch.randn(2, 32, 1, 8, 8), Step(0, 10, torch.arange(32) % 10))
    loss.backward()
    assert loss.isfinite() and loss.ndim == 0
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in backbone.parameters())


def test_the_slow_copy_follows_the_network_and_gets_no_gradient():
    backbone, method = small_backbone(), METHODS["byol"](16, **RECIPES["byol"].arguments)
    method.begin(backbone)
    before = next(method.target.parameters()).clone()
    next(backbone.parameters()).data.add_(1.0)
    method.loss(backbone, *torch.randn(2, 32, 1, 8, 8), Step(0, 10)).backward()
    moved = next(method.target.parameters())
    torch.testing.assert_close(moved - before, torch.full_like(before, 1 - RECIPES["byol"].arguments["momentum"]))
    assert moved.grad is None


@pytest.mark.parametrize(("name", "channels"), [("resnet10t", 3), ("convnext_atto", 3), ("vit_tiny_patch16_224", 1)])
def test_a_small_stem_has_a_higher_resolution_than_the_original_one(name, channels):
    images = torch.zeros(2, channels, 32, 32)
    networks = [backbones.create(name, channels=channels, side=32, stem=stem) for stem in ("small", "original")]
    small, original = (network.forward_features(images).numel() for network in networks)
    assert small > original


def test_the_half_stem_halves_the_resolution_of_a_resnet():
    backbone = backbones.create("resnet18", channels=1, side=28, stem="half", width=0.25)
    assert backbone.maxpool(backbone.conv1(torch.zeros(1, 1, 28, 28))).shape[2:] == (14, 14)


def test_the_linear_probe_is_logistic_regression(monkeypatch):
    # with classes of different sizes and a strong weight decay, a wrong scale of the loss would change the predictions
    monkeypatch.setattr(probes, "PROBE_WEIGHT_DECAY", 0.2)
    labels = (torch.arange(400) % 7).clamp(max=3)
    points = torch.randn(4, 6)[labels] + 0.9 * torch.randn(400, 6)
    scaled = (points - points[:200].mean(0)) / points[:200].std(0)
    oracle = LogisticRegression(C=1 / (200 * 0.2), max_iter=1000).fit(scaled[:200].numpy(), labels[:200].numpy())
    accuracy = linear_accuracy(Features(points[:200], labels[:200], points[200:], labels[200:], 4))
    assert accuracy == pytest.approx(oracle.score(scaled[200:].numpy(), labels[200:].numpy()), abs=0.005)


def test_nearest_neighbours_follow_the_direction_and_not_the_length():
    train, labels = torch.tensor([[1.0, 0.0], [1.0, 0.1], [20.0, 100.0], [0.0, 90.0]]), torch.tensor([0, 0, 1, 1])
    test = torch.tensor([[100.0, 1.0], [0.01, 1.0]])
    assert knn_accuracy(Features(train, labels, test, torch.tensor([0, 1]), 2)) == 1.0


def test_a_joint_embedding_sends_both_views_through_the_backbone_at_once():
    backbone, sizes = small_backbone(), []
    backbone.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    Method(nn.Identity(), VICReg()).loss(backbone, *torch.randn(2, 8, 1, 8, 8), Step(0, 1))
    assert sizes == [16]


@pytest.mark.parametrize("tensor", ["features", "projection", "prediction"])
@pytest.mark.parametrize("normalized", [True, False])
def test_the_entropy_beside_byol_is_that_of_the_tensor_which_is_named(tensor, normalized):
    views, backbone, seen = torch.randn(2, 32, 1, 8, 8), small_backbone(), []
    method = METHODS["byol"](16, **RECIPES["byol_logdet"].arguments | {"regularized": tensor, "normalized": normalized})
    method.begin(backbone)
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
