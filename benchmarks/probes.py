"""Probes of frozen features: a linear classifier and nearest neighbours, scored on held-out images."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from lightly.utils.benchmarking.knn import knn_predict
from torch import Tensor

#: weight decay of the linear probe on features of variance 1; the same for every method and never tuned
PROBE_WEIGHT_DECAY = 1e-3
PROBE_STEPS = 100
#: neighbours and temperature of the kNN vote (Wu et al., arXiv 1805.01978, use 200 and .1 for 1.3 million images)
KNN_NEIGHBOURS = 20
KNN_TEMPERATURE = 0.1


class Features(NamedTuple):
    """Frozen features [images, dim] of training and test images, with labels."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    classes: int


def linear_accuracy(features: Features) -> float:
    """Held-out accuracy of multinomial logistic regression on standardised features, fitted by L-BFGS.

    The problem is convex and starts at 0, so the probe needs no learning rate and no seed.
    """
    mean, std = features.train.mean(dim=0), features.train.std(dim=0).clamp_min(1e-6)
    train, test = ((half - mean).div_(std) for half in (features.train, features.test))
    weight = torch.zeros(train.shape[1], features.classes, device=train.device, requires_grad=True)
    bias = torch.zeros(features.classes, device=train.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=PROBE_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(train @ weight + bias, features.train_labels) + PROBE_WEIGHT_DECAY / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    predicted = (test @ weight + bias).argmax(dim=1)
    return (predicted == features.test_labels).double().mean().item()


@torch.no_grad()
def knn_accuracy(features: Features) -> float:
    """Held-out accuracy of a vote of the nearest training images by cosine, with weights exp(cosine / KNN_TEMPERATURE)."""
    bank = F.normalize(features.train).T.contiguous()  # [dim, images]
    neighbours = min(KNN_NEIGHBOURS, len(features.train))
    vote = (bank, features.train_labels, features.classes, neighbours, KNN_TEMPERATURE)
    predicted = torch.cat([knn_predict(queries, *vote)[:, 0] for queries in F.normalize(features.test).split(512)])
    return (predicted == features.test_labels).double().mean().item()
