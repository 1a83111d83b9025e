"""Self-test of the GPU matrix operations before their first use: for whole numbers, their results must equal those of a CPU.

Sums and products of small whole numbers are exact in every dtype. So a difference above the rounding of a result is a fault.
After a fault, this process uses the reference implementation.
"""

import os
import warnings
from contextlib import nullcontext
from types import ModuleType

import torch
from torch import Tensor

from it_losses.kernels.batch import Batch, SingleRank
from it_losses.kernels.products import products_named

#: environment variable that turns a failed self-test into an error, or switches the test off
VARIABLE = "IT_LOSSES_SELF_TEST"
MODES = ("auto", "off", "error")
#: shape of the input: several full tiles and chunks, and a remainder
ROWS, DIM = {"": 272, "_pairs": 144, "_slices": 272}, 80
#: tolerated relative error of exact results, of fast logarithms, and of results rounded to the dtype (TF32 for float32)
EXACT, OF_LOGARITHMS, ROUNDED = 1e-5, 1e-4, {torch.float32: 2.0**-9, torch.float16: 2.0**-9, torch.bfloat16: 2.0**-6}

#: a draw number whose key has the highest bit set
DRAW = 3

#: tests that passed, and the faults that other tests found
_passed: set[tuple[object, ...]] = set()
_failed: dict[tuple[object, ...], str] = {}


def failure(products: str, z: Tensor) -> str:
    """The fault of these GPU operations for views like z; an empty string if there is none, or if no test can run now.

    Raises:
        RuntimeError: the test fails and IT_LOSSES_SELF_TEST is "error".
        ValueError: IT_LOSSES_SELF_TEST has an unknown value.
    """
    use = products, z.device, z.dtype
    # Triton compiles different kernels for sizes that are multiples of 16
    kind = *use, z.shape[0] % 16 == 0, z.shape[-1] % 16 == 0
    if kind in _passed:
        return ""
    if use in _failed:
        return _failed[use]
    if not _can_test(z):
        return ""
    try:
        rows, dim = ROWS[products] - 7 * (not kind[3]), DIM - 7 * (not kind[4])
        # float32 too, because half-precision views become float32 when they are scaled to unit vectors
        dtypes = dict.fromkeys((z.dtype, torch.float32))
        seen = next(filter(None, [fault(products, z.device, dtype, rows=rows, dim=dim) for dtype in dtypes]), "")
    except torch.OutOfMemoryError:
        return ""
    if not seen:
        _passed.add(kind)
        return ""
    _failed[use] = f"the GPU kernels failed their self-test in {z.dtype} on {z.device}: {seen}"
    _report(_failed[use])
    return _failed[use]


def seen_before(z: Tensor) -> str:
    """The fault that an earlier test found for this device and dtype, or "". Compiled code cannot run the test itself."""
    for products in ROWS:
        if (products, z.device, z.dtype) in _failed:
            return _failed[products, z.device, z.dtype]
    return ""


def fault(products: str, device: torch.device, dtype: torch.dtype, *, rows: int, dim: int) -> str:
    """Test these operations with views [rows, dim] in this dtype. Return the fault, or an empty string."""
    generator = torch.Generator("cpu")
    seed = generator.seed()
    draw = _Draw(generator, rows, dim)
    # kernels run on the current device, so make `device` the current one
    current = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False), current:
            results = draw.results(products, products_named("cuda" + products), device, dtype)
            # copy the results inside `try`, because a GPU reports errors only then
            got = {name: result.cpu().double() for name, result in results.items()}
            right = draw.results(products, products_named("cpu" + products), torch.device("cpu"), torch.float64)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip() or 'no message'} (seed {seed}, {rows} x {dim})"
    for name, ours in got.items():
        tolerance = ROUNDED[dtype] if "gradient" in name else OF_LOGARITHMS if "random" in name else EXACT
        difference = (ours - right[name]).abs().max() / right[name].abs().max()
        # `not <=` instead of `>`, so that NaN is a fault
        if not difference <= tolerance:
            return f"{name} has an error of {difference:.1e}, relative to its largest element (seed {seed}, {rows} x {dim})"
    return ""


class _Draw:
    """Random input of small whole numbers: two views with two groups, and the matrices that multiply them."""

    def __init__(self, generator: torch.Generator, rows: int, dim: int) -> None:
        def whole(*shape: int) -> Tensor:
            return torch.randint(-3, 4, shape, generator=generator, device="cpu").double()

        self.rows, self.dim = rows, dim
        half = whole(rows // 2, 2, 2, dim)
        # samples come in pairs +x and -x, so that the mean is a whole number too
        self.views = 3 + torch.cat((half, -half, half.new_zeros(rows % 2, 2, 2, dim)))  # [rows, groups, views, dim]
        self.left, self.right, self.slope = whole(4, rows, rows), whole(4, dim, dim), whole(4, 1, dim)
        self.weights = (4 + whole(2, 2, rows)) / 8

    def results(self, kind: str, products: ModuleType, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """The results of these operations by name, for views in this dtype."""
        views = self.views.to(device, dtype).movedim(0, 1)  # [groups, rows, views, dim]
        batch = Batch(list(views.unbind(2)), SingleRank(len(self.views)))
        measured = {"": self._samples, "_pairs": self._pairs, "_slices": self._slices}
        return measured[kind](products, batch)

    def _samples(self, products: ModuleType, batch: Batch) -> dict[str, Tensor]:
        gram, norms, centred = products.gram(batch, squares=True)
        left, right, slope = (m.to(gram) for m in (self.left, self.right, self.slope))
        distance, by_gram = products.gradient(batch, centred, 0.25, left=left, slope=slope)
        covariance, variances, centred = products.covariance(batch, squares=True)
        _, by_covariance = products.gradient(batch, centred, 0.25, right=right, slope=slope, alpha=0.5)
        return {
            "the Gram matrix": gram,
            "the covariance": covariance,
            "the squared norm of a column": torch.cat((norms, variances)),
            "the distance of the views": distance,
            "a gradient by the Gram matrix": by_gram,
            "a gradient by the covariance": by_covariance,
        }

    def _pairs(self, products: ModuleType, batch: Batch) -> dict[str, Tensor]:
        x = products.centred(batch.own[:1])
        gradient = products.empty_gradient(batch)
        distance = products.distance(batch, 0.25, out=gradient)
        weights = self.weights.to(x.device, torch.promote_types(x.dtype, torch.float32))
        rates = weights.new_tensor([[2.0**-9], [2.0**-8]]).repeat(1, len(x))
        sums, pairs = products.pair_sums(x, batch.ranks.own, rates, memory=0)
        products.add_pair_gradient_(gradient[: len(x)], pairs, weights)
        return {"the distance of the views": distance, "a sum over pairs": sums, "a gradient of pairs": gradient}

    def _slices(self, products: ModuleType, batch: Batch) -> dict[str, Tensor]:
        gradient = products.empty_gradient(batch)
        distance = products.distance(batch, 0.25, out=gradient)
        directions = products.unit_directions(self.rows, self.dim, seed=0, draw=DRAW, like=self.weights.to(gradient.device))
        x = batch.own[0].to(torch.promote_types(gradient.dtype, torch.float32)).contiguous()
        knots = x.new_tensor([0.25, 0.5, 1.0])
        ((sums, waves),) = products.waves(x, knots, x.shape[1])
        weights = self.slope.to(x)[:2, :, :6].view(2, 1, 2, 3).repeat(1, x.shape[1], 1, 1)
        results = {"the distance of the views": distance, "a random direction": directions, "a sum of waves": sums}
        return results | {"a slope of waves": products.wave_slopes_(waves, weights)}


def _can_test(z: Tensor) -> bool:
    """Whether the test can run: not for tensor subclasses, in CUDA graph capture, or if it is switched off."""
    mode = os.environ.get(VARIABLE, "auto")
    if mode not in MODES:
        raise ValueError(f"{VARIABLE} must be one of {list(MODES)}, got {mode!r}. Unset it for the default.")
    if mode == "off" or type(z) not in (Tensor, torch.nn.Parameter):
        return False
    has_gpu: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return not (has_gpu and torch.cuda.is_current_stream_capturing())


def _report(seen: str) -> None:
    if os.environ.get(VARIABLE) == "error":
        raise RuntimeError(f"{seen}. Set {VARIABLE}=auto to use the reference implementation instead.")
    warnings.warn(
        f"it_losses: {seen}. This process now uses the reference implementation, which is correct but slower. Please report "
        "this with the output of `python -m it_losses --self-test`. IT_LOSSES_BACKEND=reference avoids this warning.",
        stacklevel=2,
    )
