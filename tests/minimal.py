"""Checks the wheel in an environment with torch only: `import it_losses` works, and every loss runs forward and backward."""

import importlib.metadata
import importlib.util
import warnings

import torch

import it_losses

installed = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
strangers = installed & {"lightly", "lightning", "timm", "scipy", "hydra-core", "kornia", "matplotlib", "rich"}
assert not strangers, f"this check needs an environment with torch only, but these are installed too: {strangers}"
assert "site-packages" in it_losses.__file__, it_losses.__file__
assert importlib.util.find_spec("it_losses.adapters"), "the wheel must ship the adapters"
for folder in ("adapters", "benchmarks", "tests"):
    assert not importlib.util.find_spec(folder), f"the wheel must not ship a top-level {folder}"

warnings.filterwarnings("error", module="it_losses")
z_a, z_b = torch.randn(2, 16, 8, requires_grad=True)
for name in it_losses.ESTIMATORS:
    it_losses.VICRegEntropy(name)(z_a, z_b).backward()
for convention in ("official", "solo-learn", "vicregl", "eb_jepa", "paper"):
    it_losses.VICReg(convention=convention)(z_a, z_b).backward()
it_losses.EntropyRegularizer("pairwise")(z_a).backward()
print(f"it-losses {it_losses.__version__} works where torch alone is installed")
