"""Figure 1: whether the output is Gaussian for Gaussian noise at the input, and the distances between raw images."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks import data
from benchmarks.figures.networks import Networks
from benchmarks.figures.statistics import Row, grouped, mean_and_error, verdict
from benchmarks.table1.recipes import title
from it_losses import theory

METHODS = ("vicreg", "simclr", "byol")
#: standard deviations of the noise, in units of the standard deviation of all pixels
NOISE = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
#: raw images whose distances are taken
RAW_IMAGES = 1000
BINS = 40
LINE = 0.01


def rows(networks: Networks, track: Callable[[Iterable, str], Iterable]) -> list[Row]:
    """Mean p-value by network and noise; histograms of distances."""
    return _p_values(networks, track) + _distances(networks)


def plot(rows: list[Row], figure: Figure) -> None:
    """p-values on the left, histograms on the right."""
    left, right = figure.subplots(1, 2)
    for (network,), lines in grouped(_of(rows, "p-value"), "network").items():
        means = [mean_and_error([line["p_value"] for line in at]) for at in grouped(lines, "noise").values()]
        noise = list(dict.fromkeys(line["noise"] for line in lines))
        left.errorbar(noise, [m for m, _ in means], [e for _, e in means], label=network, marker="o", markersize=3)
    left.axhline(LINE, color="black", linestyle="--", linewidth=0.8)
    left.set(
        xscale="log", yscale="log", xlabel="noise, in standard deviations of the pixels", ylabel="p-value, mean over outputs"
    )
    left.legend()
    for (name,), lines in grouped(_of(rows, "distance"), "network").items():
        width = lines[0]["width"]
        right.bar(
            [line["distance"] for line in lines], [line["share"] for line in lines], width, align="edge", label=name, alpha=0.6
        )
    right.set(xlabel="l2 distance of raw images, pixels in [0, 1]", ylabel="share of pairs", xlim=(0, None))
    right.legend()


def caption(rows: list[Row]) -> str:
    """Whether p falls with the noise and is large for small noise, and whether some images coincide."""
    falls, said = True, []
    for (network,), lines in grouped(_of(rows, "p-value"), "network").items():
        means = [mean_and_error([line["p_value"] for line in at])[0] for at in grouped(lines, "noise").values()]
        falls &= means[-1] < means[0] and means[0] > LINE
        said.append(f"{network} {means[0]:.3f} to {means[-1]:.3f}")
    separate, gaps = True, []
    for (name,), lines in grouped(_of(rows, "distance"), "network").items():
        smallest, median = lines[0]["smallest"], lines[0]["median"]
        separate &= smallest > 0.05 * median
        gaps.append(f"{name}: smallest {smallest:.3f}, median {median:.3f}")
    noise = [line["noise"] for line in _of(rows, "p-value")]
    return (
        "Left: D'Agostino-Pearson p-value of each coordinate of the penultimate layer over noisy copies of an image, mean "
        "over coordinates and test images, standard error over trials; 1/2 is a Gaussian. Claim: p falls as the noise grows, "
        f"and is above {LINE} for small noise. {verdict(falls)} From noise {min(noise)} to {max(noise)}: {'; '.join(said)}.\n\n"
        "Right: distances of pairs of raw images. Claim: none is near 0 (here: the smallest is above 5% of the median). "
        f"{verdict(separate)} {'; '.join(gaps)}."
    )


def _of(rows: list[Row], panel: str) -> list[Row]:
    return [row for row in rows if row["panel"] == panel]


def _p_values(networks: Networks, track: Callable[[Iterable, str], Iterable]) -> list[Row]:
    setup = networks.setup
    cases = [(method, trial) for method in (*METHODS, None) for trial in range(setup.trials)]
    result = []
    for method, trial in track(cases, "figure 1: p-values"):
        module = networks.get(method, trial).module if method else networks.untrained("vicreg", trial).to(setup.device).eval()
        x = networks.standardised(module, networks.images.test[: setup.noisy_images])
        generator = torch.Generator(setup.device).manual_seed(setup.seed + trial)
        for noise in NOISE:
            p_values = theory.output_normality(module.backbone, x, noise, copies=setup.copies, generator=generator)
            name = title(method) if method else "untrained"
            p_value = p_values.nanmean().item()
            result.append({"panel": "p-value", "network": name, "trial": trial, "noise": noise, "p_value": p_value})
    return result


def _distances(networks: Networks) -> list[Row]:
    sets = {networks.setup.dataset: networks.images}
    if "digits" not in sets:
        sets["digits"] = data.load("digits", None, 8)
    return [row for name, images in sets.items() for row in _histogram(name, images.train[:RAW_IMAGES])]


def _histogram(name: str, images: Tensor) -> list[Row]:
    distances = torch.pdist(images.flatten(1).double() / 255)
    width = distances.max().item() / BINS
    shares = torch.histc(distances, BINS, 0, distances.max().item()) / len(distances)
    facts = {"smallest": distances.min().item(), "median": distances.median().item(), "width": width}
    return [
        {"panel": "distance", "network": name, "distance": i * width, "share": share, **facts}
        for i, share in enumerate(shares.tolist())
    ]
