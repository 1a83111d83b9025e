"""Our VICReg and SIGReg, built from the arguments of each library, with the same value as in that library."""

from typing import ClassVar

from it_losses import SIGReg, VICReg
from it_losses.checks import Check, check_count, check_positive
from it_losses.sigreg_conventions import CONVENTIONS, SIGRegConvention

#: library -> {its argument: our argument}
ARGUMENTS: dict[str, dict[str, str]] = {
    "lightly": {
        "lambda_param": "invariance_weight",
        "mu_param": "variance_weight",
        "nu_param": "covariance_weight",
        "eps": "epsilon",
        "gather_distributed": "gather_distributed",
    },
    "solo-learn": {
        "sim_loss_weight": "invariance_weight",
        "var_loss_weight": "variance_weight",
        "cov_loss_weight": "covariance_weight",
    },
    "stable-pretraining": {
        "sim_coeff": "invariance_weight",
        "std_coeff": "variance_weight",
        "cov_coeff": "covariance_weight",
        "epsilon": "epsilon",
    },
    "pytorch-metric-learning": {
        "invariance_lambda": "invariance_weight",
        "variance_mu": "variance_weight",
        "covariance_v": "covariance_weight",
        "eps": "epsilon",
    },
    "eb_jepa": {"std_coeff": "variance_weight", "cov_coeff": "covariance_weight"},
}

#: for each library, our arguments whose defaults differ from those of VICReg()
DEFAULTS: dict[str, dict[str, object]] = {
    "lightly": {"gather_distributed": False},
    "solo-learn": {"convention": "solo-learn"},
    "stable-pretraining": {},
    "pytorch-metric-learning": {"gather_distributed": False},
    "eb_jepa": {
        "convention": "eb_jepa",
        "invariance_weight": 1.0,
        "variance_weight": 1.0,
        "covariance_weight": 1.0,
        "gather_distributed": False,
    },
}


def translated(library: str, **arguments: object) -> dict[str, object]:
    """Arguments of our VICReg, from those of a library's VICReg; ValueError for an unknown library or argument."""
    if library not in ARGUMENTS:
        raise ValueError(f"library must be one of {sorted(ARGUMENTS)}, got {library!r}.")
    ours = ARGUMENTS[library]
    unknown = sorted(set(arguments) - set(ours))
    if unknown:
        raise ValueError(f"{library}'s VICReg accepts {sorted(ours)}, got {unknown}.")
    return DEFAULTS[library] | {ours[name]: value for name, value in arguments.items()}


def vicreg(library: str, *, gather_distributed: bool | None = None, **arguments: object) -> VICReg:
    """Our VICReg with the value that a library's VICReg has for these arguments.

    Args:
        library: a key of ARGUMENTS.
        gather_distributed: whether the statistics use the samples of all ranks; None for the library's default.
        arguments: arguments of the library's VICReg.

    >>> vicreg("solo-learn", sim_loss_weight=25, var_loss_weight=25, cov_loss_weight=1).convention
    'solo-learn'
    """
    ours = translated(library, **arguments)
    if gather_distributed is not None:
        ours["gather_distributed"] = gather_distributed
    return VICReg(**ours)  # type: ignore[arg-type]


class EppsPulley(SIGReg):
    """SIGReg with the arguments of lightly and stable-pretraining: `[batch, ..., dim] -> []`.

    The value is `-batch * T`, T the statistic of Epps and Pulley.

    Args:
        knots: points of the trapezoidal rule on [0, t_max]; the rule is symmetric around 0.
        t_max: the largest frequency.
        slices: the number of random directions.
    """

    checks: ClassVar[dict[str, Check]] = {
        "knots": lambda name, value: check_count(name, value, at_least=2),
        "t_max": check_positive,
    }

    def __init__(self, knots: int, t_max: float, slices: int) -> None:
        super().__init__("lightly", slices=check_count("slices", slices))
        self.knots = knots
        self.t_max = t_max

    @property
    def numbers(self) -> SIGRegConvention:
        """Lightly's convention, with the points given by `knots` and `t_max`."""
        return CONVENTIONS["lightly"]._replace(points=2 * self.knots - 1, largest=self.t_max)
