"""lightly: drop-in criteria, LightningModules and benchmark methods. You change one import.

    - from lightly.loss import VICRegLoss
    + from it_losses.adapters.lightly import VICRegLoss

criteria   VICRegLoss, LogDetLoss, PairwiseLoss, EntropyRegularized and lightly's three term functions
unit_norm  HypersphereLoss, KoLeoLoss and FroSSLLoss
lejepa     LeJEPALoss, SIGReg and lejepa_invariance_loss
patch      for code that cannot be edited: install() puts our criteria into lightly's modules, uninstall() restores lightly's;
           register(METHODS) adds our methods to a benchmark script, as `python -m it_losses.adapters.lightly main.py` does
modules    LightningModules on a timm backbone (imports lightly, pytorch_lightning and timm)

The criteria work without lightly.
"""

from it_losses.adapters.lightly.criteria import (
    EntropyRegularized,
    LogDetLoss,
    PairwiseLoss,
    VICRegLoss,
    covariance_loss,
    invariance_loss,
    variance_loss,
)
from it_losses.adapters.lightly.lejepa import LeJEPALoss, SIGReg, lejepa_invariance_loss
from it_losses.adapters.lightly.patch import install, register, uninstall
from it_losses.adapters.lightly.unit_norm import FroSSLLoss, HypersphereLoss, KoLeoLoss

__all__ = [
    "EntropyRegularized",
    "FroSSLLoss",
    "HypersphereLoss",
    "KoLeoLoss",
    "LeJEPALoss",
    "LogDetLoss",
    "PairwiseLoss",
    "SIGReg",
    "VICRegLoss",
    "covariance_loss",
    "install",
    "invariance_loss",
    "lejepa_invariance_loss",
    "register",
    "uninstall",
    "variance_loss",
]
