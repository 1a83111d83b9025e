"""Self-supervised pre-training on one screen: data, model, loss, loop and probe, in plain PyTorch."""

import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

from it_losses import VICRegEntropy

torch.manual_seed(0)
digits = load_digits()  # 1,797 images of 8 x 8 pixels; only the probe sees the labels
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16


def view(x):
    """Each image turned, scaled and moved a little, under noise."""
    turn = torch.eye(2, 3) + 0.2 * torch.randn(len(x), 2, 3)
    grid = nn.functional.affine_grid(turn, list(x.shape), align_corners=False)
    return nn.functional.grid_sample(x, grid, align_corners=False) + 0.1 * torch.randn_like(x)


def block(inputs, outputs, stride):
    """A convolution with normalisation."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()


convolutions = *block(1, 32, 1), *block(32, 64, 2), *block(64, 128, 2)
backbone = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten())
projector = nn.Sequential(nn.Linear(128, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 256))
model = nn.Sequential(backbone, projector)
criterion = VICRegEntropy("log_det")
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)


def probe():
    """Accuracy of a linear classifier: fitted on the first 1,200 images, scored on the others."""
    backbone.eval()
    with torch.no_grad():
        features = backbone(images).numpy()
    backbone.train()
    classifier = LogisticRegression(max_iter=1000).fit(features[:1200], digits.target[:1200])
    return classifier.score(features[1200:], digits.target[1200:])


print(f"untrained: {probe():.1%}")
for _ in range(10):
    for batch in torch.randperm(1200).split(128)[:-1]:
        terms = criterion.terms(model(view(images[batch])), model(view(images[batch])))
        optimizer.zero_grad()
        terms.loss.backward()
        optimizer.step()
    print(", ".join(f"{name} {value:.3f}" for name, value in terms._asdict().items()))
print(f"trained: {probe():.1%}")
