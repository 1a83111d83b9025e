"""A call launches the expected kernels and uses no operator that waits for the GPU. The tests need no GPU.

Launches are recorded and not run. Results are meaningless, but the launches do not depend on them.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")

from launches import KERNELS, MODULES, record_launches, stand_in_for_gpu

from it_losses.kernels import koleo, log_det, pairwise, quadratic, renyi, sigreg, spacings, vicreg
from it_losses.kernels.batch import Batch, Plan, Request, SingleRank
from it_losses.kernels.products import cuda_pairs, products_named

#: operators that make the host wait for the GPU
WAITS = {"aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal"}
OBJECTIVES = {
    "vicreg": (vicreg, (25.0, 1.0, 1.0, 1e-4)),
    "log_det": (log_det, (10.0, 1.0, 1.0)),
    "koleo": (koleo, (1e-8,)),
    "spacings": (spacings, (0.25, 0.0, 1e-8)),
    "sigreg": (sigreg, (16.0, 0.0, 10.0, 3.0, 0.0, 0.0, 0.0, 5.0)),
    "renyi": (renyi, (2.0, 0.0)),
    "renyi, centred": (renyi, (2.0, 1.0)),
    "pairwise": (pairwise, (2.0, 0.2, 2.0**28, 0.0, 0.0)),
    "pairwise, pooled without positives": (pairwise, (2.0, 0.2, 2.0**28, 1.0, 2.0, 4.0)),
    "quadratic": (quadratic, (0.2, 2.0**28, 1.0, 1.0)),
    "pairwise, formed again": (pairwise, (2.0, 0.2, 0.0, 0.0, 0.0, 4.0, 9.0)),
}


class NoWaits(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._schema.name not in WAITS, func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(40, 60), (150, 30)], ids=str)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_launches_of_two_views_and_no_wait(name, shape, dtype, monkeypatch):
    launches = record_launches(monkeypatch)
    stand_in_for_gpu(monkeypatch)
    module, constants = OBJECTIVES[name]
    batch = Batch(list(torch.randn(2, 1, *shape).to(dtype)), SingleRank(shape[0]))
    with NoWaits():
        module.evaluate(
            batch,
            Plan(products_named("cuda" + module.PRODUCTS), module.prefers_gram(*shape, 1)),
            constants,
            Request(0.1, 1.0, needs_gradient=True),
        )
    expected = {"differences": 1}
    # only objectives that centre the samples launch these two kernels
    if module not in (koleo, sigreg) and name != "renyi":
        expected |= {"column_moments": 1, "centre": 1}
    if module is sigreg:
        expected |= dict.fromkeys(("normal_numbers", "sums_of_waves", "slopes_of_waves"), 1)
    if module in (pairwise, quadratic):
        # one launch handles all pairs of both views. With the memory limit 0, a launch handles at most FEWEST_ROWS rows
        strips = -(-2 * shape[0] // cuda_pairs.FEWEST_ROWS) if "again" in name else 1
        expected |= {"similarity_sums": strips, "pair_weights": strips}
    assert Counter(launch.kernel for launch in launches) == expected


def test_every_kernel_is_named_in_the_docstring_of_its_file():
    for module in MODULES:
        kernels = KERNELS.keys() & vars(module).keys()
        assert kernels and all(name in module.__doc__ for name in kernels)
