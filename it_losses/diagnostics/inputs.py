"""Checks of the inputs of all diagnostics: they return a batch detached and in float64, or raise ValueError."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeAlias, TypeGuard

import torch
from torch import Tensor


class Array(Protocol):
    """A NumPy array, or an object that can be converted to one."""

    def __array__(self) -> Any:
        """The NumPy array."""


Batch: TypeAlias = "Tensor | Array"
#: one batch, or an iterable of batches such as a loader
Batches: TypeAlias = "Tensor | Array | Iterable[Tensor] | Iterable[Array]"

#: devices with float64 and all matrix factorizations; tensors on other devices are copied to the CPU
COMPLETE_DEVICES = ("cpu", "cuda")


def is_batch(z: object) -> TypeGuard[Batch]:
    """Whether z is one batch rather than an iterable of batches."""
    return isinstance(z, Tensor) or hasattr(z, "__array__")


def batches(z: Batches) -> Iterator[Batch]:
    """Yield each batch of an iterable, or the batch z itself; ValueError if there is none."""
    if is_batch(z):
        yield z
        return
    if isinstance(z, str | bytes | dict) or not isinstance(z, Iterable):
        raise ValueError(f"embeddings must be a tensor, a NumPy array, or an iterable of these, got {type(z).__name__}.")
    count = 0
    for count, batch in enumerate(z, start=1):  # noqa: B007
        yield batch
    if not count:
        raise ValueError("embeddings need at least one batch, got an empty iterable.")


def rows(z: Batch) -> Tensor:
    """A batch of embeddings in float64: [batch, dim]."""
    return checked(z, ("batch", "dim"), advice="Make every row a sample: torch.stack(rows), or z.flatten(0, -2).")


def checked(z: Batch, dimensions: tuple[str, ...], *, advice: str) -> Tensor:
    """The batch, detached and in float64; ValueError unless it is dense and floating-point, with these `dimensions`."""
    tensor = _as_tensor(z)
    if not tensor.is_floating_point():
        raise ValueError(f"embeddings need floating-point numbers, got {tensor.dtype}. {_advice_on_dtype(tensor)}")
    if tensor.is_nested or tensor.layout != torch.strided:
        raise ValueError(f"embeddings need a dense tensor, got layout {tensor.layout}. Convert it with .to_dense().")
    if hasattr(tensor, "full_tensor"):
        raise ValueError("embeddings need a plain tensor, got a DTensor. Pass z.full_tensor().")
    if tensor.is_meta or hasattr(tensor, "fake_mode"):
        kind = "meta" if tensor.is_meta else "fake"
        raise ValueError(f"embeddings must have values, got a {kind} tensor, which has none. Pass an ordinary tensor.")
    if tensor.ndim != len(dimensions) or tensor.numel() == 0:
        raise ValueError(f"embeddings need a non-empty shape ({', '.join(dimensions)}), got {tuple(tensor.shape)}. {advice}")
    tensor = tensor.detach()
    # copy first, because a device without float64 cannot convert to it
    return (tensor if tensor.device.type in COMPLETE_DEVICES else tensor.cpu()).double()


def check_together(first: Tensor, other: Tensor) -> None:
    """ValueError unless two batches have the same dim and device."""
    if first.shape[1:] != other.shape[1:]:
        raise ValueError(
            f"all batches need the same dim, got shapes {tuple(first.shape)} and {tuple(other.shape)}. "
            "Measure embeddings of each dim separately."
        )
    if first.device != other.device:
        raise ValueError(f"batches must be on one device, got {first.device} and {other.device}. Move the batches with .cpu().")


def _as_tensor(z: Batch) -> Tensor:
    mask: Any = getattr(z, "mask", None)
    # a pandas DataFrame has a method `mask`, which is no array
    if hasattr(z, "get_mask") or (hasattr(mask, "any") and mask.any()):
        raise ValueError("embeddings must not be masked. Pass only the rows to measure.")
    if isinstance(z, Tensor):
        return z
    if not hasattr(z, "__array__"):
        raise ValueError(
            f"embeddings must be tensors or NumPy arrays, got {type(z).__name__}. Convert numbers with torch.tensor(z). "
            "If a loader yields pairs, pass (net(x) for x, _ in loader)."
        )
    array = z.__array__()
    try:
        # copy, because torch refuses negative strides and warns about read-only arrays
        return torch.from_numpy(array.copy())
    except (TypeError, ValueError) as error:
        raise ValueError(f"torch cannot read an array of {array.dtype}. Convert it with .astype('float64').") from error


def _advice_on_dtype(z: Tensor) -> str:
    if z.is_complex():
        return "Stack its real and imaginary parts: torch.view_as_real(z).flatten(1)."
    return "Convert it with .float(), and pass embeddings, not labels."
