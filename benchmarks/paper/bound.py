"""Theorem 3: compare the test loss of a least-squares head with the terms of its bound."""

import copy
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import data
from benchmarks.statistics import verdict
from it_losses import VICReg, theory

DIM, HIDDEN = 32, 128
#: numbers of labelled images; the first is below the dimension of the features
LABELLED = (16, 32, 64, 128, 256, 512)
UNLABELLED = 800
#: standard deviation of the noise that makes a view, on grey levels from 0 to 1
NOISE = 0.2
STEPS, BATCH, LEARNING_RATE = 200, 256, 2e-3
TERMS = ("invariance", "unlabelled_residual", "labelled_residual", "rademacher")


def rows(trials: int, samples: int, seed: int) -> list[dict[str, Any]]:
    """One row per trial, network and number of labelled samples."""
    images = data.load("digits", None, 8)
    x, test_x = (half.flatten(1) / 255 for half in (images.train, images.test))
    y, test_y = (F.one_hot(labels, images.classes) for labels in (images.train_labels, images.test_labels))
    drawn = [_trial(x, seed + trial) for trial in range(trials)]
    family = [network for networks, *_ in drawn for network in networks.values()]
    result = []
    for number, (networks, unlabelled, labelled, views) in enumerate(drawn):
        distances = torch.stack([torch.sub(*features(network, *views)).norm(dim=1) for network in family])
        complexity = theory.empirical_rademacher(distances).item()
        for name, network in networks.items():
            z, test_z, *views_z = features(network, x, test_x, *views)
            for n in LABELLED:
                known = labelled[:n]
                samples = z[known], y[known], *views_z, y[unlabelled]
                bound = theory.generalization_bound(*samples, rademacher_complexity=complexity)
                head = theory.least_squares_head(z[known], y[known])
                losses = (test_z.double() @ head.weight - test_y).norm(dim=1)
                facts = {"trial": number, "network": name, "labelled": n, "sum": bound.total.item()}
                terms = {term: getattr(bound, term).item() for term in TERMS}
                result.append(facts | terms | {"test_loss": losses.mean().item()})
    return result


@torch.no_grad()
def features(network: nn.Module, *batches: Tensor) -> list[Tensor]:
    """Features of unit norm, so that the invariance of networks can be compared: [batch, dim] for each batch."""
    return [F.normalize(network(x)) for x in batches]


def _trial(x: Tensor, seed: int) -> tuple[dict[str, nn.Module], Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Networks by name, indices of unlabelled and labelled training images, and two views of the unlabelled images."""
    torch.manual_seed(seed)
    order = torch.randperm(len(x))
    unlabelled, labelled = order[:UNLABELLED], order[UNLABELLED:]
    untrained = nn.Sequential(nn.Linear(x.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, DIM))
    networks = {"untrained": untrained, "VICReg": _trained(copy.deepcopy(untrained), x[unlabelled])}
    return networks, unlabelled, labelled, _views(x[unlabelled])


def _trained(network: nn.Module, x: Tensor) -> nn.Module:
    criterion, optimizer = VICReg(), torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        criterion(*map(network, _views(x[torch.randperm(len(x))[:BATCH]]))).backward()
        optimizer.step()
    return network


def _views(x: Tensor) -> tuple[Tensor, Tensor]:
    return x + NOISE * torch.randn_like(x), x + NOISE * torch.randn_like(x)


def finding(frame: pd.DataFrame) -> dict[str, Any]:
    holds = frame["sum"] >= frame.test_loss
    bounded, missed = frame[holds], frame[~holds]
    trials = frame.assign(held=holds).groupby(["network", "labelled"], sort=False)
    errors = trials.sem().fillna(0.0).add_suffix("_error")
    lines = trials.mean().assign(held=trials.held.sum(), trials=trials.size()).join(errors).reset_index()
    return {
        "verdict": verdict(missed.empty),
        "lines": lines.to_dict("records"),
        "bounded": f"{len(bounded)} of {len(frame)}",
        "missed": ", ".join(map(str, sorted(set(missed.labelled)))) or "none",
        "lacking": (frame.test_loss - frame["sum"]).clip(lower=0).max(),
        "ratio": (bounded["sum"] / bounded.test_loss).mean(),
        "useful": (bounded["sum"] < 1).sum(),
    }
