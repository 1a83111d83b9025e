"""Our methods for solo-learn: its own methods with another loss, or with an entropy added to their loss."""

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf
from solo.methods.base import BaseMethod
from solo.methods.byol import BYOL
from solo.methods.simclr import SimCLR
from solo.methods.vicreg import VICReg
from torch import Tensor
from torch.nn.functional import normalize

from it_losses import EntropyRegularizer, VICRegEntropy
from it_losses.adapters.conventions import ARGUMENTS, vicreg
from it_losses.adapters.lightning import EmbeddingMonitor
from it_losses.checks import check_weight

#: the weights of solo-learn's VICReg
VICREG_ONLY = ("sim_loss_weight", "var_loss_weight", "cov_loss_weight")


class Configured(BaseMethod):
    """The base of our methods. It checks `method_kwargs` and saves them in checkpoints."""

    #: required `method_kwargs`
    needed: ClassVar[tuple[str, ...]] = ("proj_hidden_dim", "proj_output_dim")
    #: optional `method_kwargs` and their defaults
    defaults: ClassVar[dict[str, Any]] = {}

    @classmethod
    def add_and_assert_specific_cfg(cls, cfg: DictConfig) -> DictConfig:
        """The configuration with defaults filled in; ValueError if a required entry is missing."""
        given = OmegaConf.select(cfg, "method_kwargs", default={})
        absent = [name for name in cls.needed if name not in given or OmegaConf.is_missing(given, name)]
        if absent:
            raise ValueError(f"method {cfg.method!r} needs method_kwargs {list(cls.needed)}. Missing: {absent}.")
        used = [*cls.needed, *cls.defaults]
        unread = [name for name in given if name not in used]
        if unread:
            warnings.warn(f"method {cfg.method!r} ignores method_kwargs {unread}. It uses {used}.", stacklevel=2)
        cfg = super().add_and_assert_specific_cfg(cfg)
        for name, value in cls.defaults.items():
            cfg.method_kwargs[name] = OmegaConf.select(cfg, f"method_kwargs.{name}", default=value)
        return cfg

    def option(self, name: str) -> Any:
        """A `method_kwargs` entry as a plain value."""
        value = self.cfg.method_kwargs[name]
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value

    def configure_callbacks(self) -> list[Any]:
        """An EmbeddingMonitor with the arguments under `monitor:` in the YAML, because main_pretrain accepts no callbacks."""
        monitor = OmegaConf.select(self.cfg, "monitor", default=None)
        return [] if monitor is None else [EmbeddingMonitor(**OmegaConf.to_container(monitor, resolve=True))]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save `method_kwargs` too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["method_kwargs"] = OmegaConf.to_container(self.cfg.method_kwargs, resolve=True)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """If the saved `method_kwargs` differ, warn, or raise ValueError if auto_resume chose the checkpoint."""
        super().on_load_checkpoint(checkpoint)
        was, now = checkpoint.get("method_kwargs"), OmegaConf.to_container(self.cfg.method_kwargs, resolve=True)
        if was is None:
            return
        differ = {name: (was.get(name), now.get(name)) for name in sorted({*was, *now}) if was.get(name) != now.get(name)}
        if not differ:
            return
        message = f"the checkpoint was trained with other method_kwargs: {differ} (saved, present)"
        # main_pretrain deletes this entry if the user named a checkpoint, and leaves it None if auto_resume chose one
        found_by_itself = "resume_from_checkpoint" in self.cfg and OmegaConf.select(
            self.cfg, "auto_resume.enabled", default=False
        )
        if found_by_itself:
            raise ValueError(f"{message}. auto_resume does not compare method_kwargs. Give this run another `name`.")
        warnings.warn(f"{message}.", stacklevel=2)

    def log_terms(self, **terms: Tensor) -> None:
        """Log each term as `train_<name>`, by step and by epoch."""
        logged = {f"train_{name}": value.detach() for name, value in terms.items()}
        self.log_dict(logged, on_epoch=True, sync_dist=True)


class ReplacedLoss(Configured, VICReg):
    """solo-learn's VICReg, with `self.criterion` as the loss."""

    def training_step(self, batch: Sequence[Any], batch_idx: int) -> Tensor:
        """The loss of the two projections plus the loss of the online classifier."""
        # skip VICReg's own step, because the step of its parent class computes the outputs
        out = super(VICReg, self).training_step(batch, batch_idx)
        terms = self.criterion.terms(*out["z"])
        self.log_terms(**{f"{self.cfg.method}_loss": terms.loss}, **{k: v for k, v in terms._asdict().items() if k != "loss"})
        loss: Tensor = terms.loss + out["loss"]
        return loss


class VICRegFused(ReplacedLoss):
    """VICReg with solo-learn's weights and value, computed by our criterion."""

    defaults: ClassVar[dict[str, Any]] = {"sim_loss_weight": 25.0, "var_loss_weight": 25.0, "cov_loss_weight": 1.0}

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg)
        self.criterion = vicreg("solo-learn", **{name: self.option(name) for name in VICREG_ONLY})

    def training_step(self, batch: Sequence[Any], batch_idx: int) -> Tensor:
        """Read the weights from solo-learn's attributes, which a schedule may change, and do the step."""
        for theirs, ours in ARGUMENTS["solo-learn"].items():
            setattr(self.criterion, ours, check_weight(theirs, getattr(self, theirs)))
        return super().training_step(batch, batch_idx)


class EntropyForVarianceAndCovariance(ReplacedLoss):
    """VICReg with an entropy instead of variance and covariance; null in the YAML is the default of the entropy."""

    entropy: str
    defaults: ClassVar[dict[str, Any]] = {
        "invariance": None,
        "invariance_weight": None,
        "entropy_weight": None,
        "entropy_options": {},
    }

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg)
        arguments = {name: self.option(name) for name in ("invariance", "invariance_weight", "entropy_weight")}
        self.criterion = VICRegEntropy(self.entropy, **arguments, **self.option("entropy_options"))


class VICRegAnyEntropy(EntropyForVarianceAndCovariance):
    """`vicreg_entropy`, with the entropy named in `method_kwargs.entropy`."""

    needed = (*Configured.needed, "entropy")

    @property
    def entropy(self) -> str:
        """A name in ESTIMATORS."""
        name: str = self.option("entropy")
        return name


class VICRegLogDet(EntropyForVarianceAndCovariance):
    """`vicreg_logdet`, with log-det entropy."""

    entropy = "log_det"


class VICRegPairDist(EntropyForVarianceAndCovariance):
    """`vicreg_pairdist`, with pairwise entropy."""

    entropy = "pairwise"


class AddedEntropy(Configured):
    """Base that subtracts the weighted entropy of the l2-normalised online projections z from the loss of a method."""

    entropy: ClassVar[str]

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg)
        self.regularizer = EntropyRegularizer(self.entropy, self.option("entropy_weight"), **self.entropy_options())
        self._online: list[Tensor] = []

    def entropy_options(self) -> dict[str, Any]:
        """Arguments of the estimator."""
        options: dict[str, Any] = self.option("entropy_options")
        return options

    def base_training_step(self, X: Tensor, targets: Tensor) -> dict[str, Any]:
        """Return solo-learn's outputs for one large crop, and keep their z for the entropy."""
        out: dict[str, Any] = super().base_training_step(X, targets)
        self._online.append(normalize(out["z"], dim=-1))
        return out

    def training_step(self, batch: Sequence[Any], batch_idx: int) -> Tensor:
        """solo-learn's loss minus `entropy_weight * H(z)`."""
        self._online = []
        loss: Tensor = super().training_step(batch, batch_idx)
        negative_entropy = self.regularizer(*self._online)
        self._online = []
        self.log_terms(negative_entropy=negative_entropy)
        return loss + negative_entropy


class LogDetOnTheSphere(AddedEntropy):
    """Log-det entropy with beta equal to the dimension by default."""

    entropy = "log_det"
    defaults: ClassVar[dict[str, Any]] = {"entropy_weight": 0.2, "entropy_options": {}}

    def entropy_options(self) -> dict[str, Any]:
        """The options with beta = dim: variances of l2-normalised z are near `1 / dim`."""
        return {"beta": float(self.option("proj_output_dim"))} | super().entropy_options()


class PairDistOnTheSphere(AddedEntropy):
    """Pairwise entropy."""

    entropy = "pairwise"
    defaults: ClassVar[dict[str, Any]] = {"entropy_weight": 0.2, "entropy_options": {}}


class BYOLLogDet(LogDetOnTheSphere, BYOL):
    """`byol_logdet`. Its weight is four times that of docs/tune.md, because solo-learn's loss has four times the gradient."""

    defaults: ClassVar[dict[str, Any]] = {"entropy_weight": 3.2, "entropy_options": {}}
    needed = ("proj_hidden_dim", "proj_output_dim", "pred_hidden_dim")


class BYOLPairDist(PairDistOnTheSphere, BYOL):
    """`byol_pairdist`, also with four times the weight of docs/tune.md."""

    defaults: ClassVar[dict[str, Any]] = {"entropy_weight": 0.2, "entropy_options": {}}
    needed = ("proj_hidden_dim", "proj_output_dim", "pred_hidden_dim")


class SimCLREntropy(LogDetOnTheSphere, SimCLR):
    """`simclr_entropy`. Its default weight, 0.2, was not tuned."""

    needed = ("proj_hidden_dim", "proj_output_dim", "temperature")
