"""Ranks that hold parts of a batch get the loss and gradient of one process that holds the whole batch."""

import copy
import functools
import math
import os
import pickle
import re
import warnings
from typing import ClassVar
from unittest.mock import patch

import pytest
import ranks
import torch
import torch.distributed as dist

from it_losses import ESTIMATORS, EntropyRegularizer, LogDet, Pairwise, SIGReg, VICReg, VICRegEntropy, functional
from it_losses.checks import ViewError
from it_losses.distributed import cpu_group
from it_losses.kernels import log_det, renyi, vicreg
from it_losses.kernels.products import cpu
from it_losses.vicreg_conventions import CONVENTIONS


class Stranger(LogDet):
    """An estimator that a user could write: it has no fused implementation and no code for ranks."""

    def entropy(self, z):
        return super().entropy(z) + z.square().mean(dim=(-2, -1))


OBJECTIVES = {
    **{f"VICReg, {name}": functools.partial(VICReg, convention=name) for name in CONVENTIONS},
    "VICReg, other constants": functools.partial(VICReg, 1.0, 3.0, 2.0, margin=1.5, epsilon=1e-3),
    **{f"VICRegEntropy, {name}": functools.partial(VICRegEntropy, name) for name in ESTIMATORS},
    **{f"EntropyRegularizer, {name}": functools.partial(EntropyRegularizer, name, 0.3) for name in ESTIMATORS},
    "log-det in nats": functools.partial(VICRegEntropy, "log_det", entropy_weight=0.7, beta=50.0, per_dimension=False),
    "log-det with a scale anchor": functools.partial(VICRegEntropy, "log_det", beta=3.0, anchor=True),
    "pairwise, lower bound of two bandwidths": functools.partial(
        VICRegEntropy, "pairwise", bandwidth=(1.0, 2.0), divergence="bhattacharyya"
    ),
    "koleo of embeddings": functools.partial(VICRegEntropy, "koleo", normalize=None),
    # in evaluation mode each call draws the same slices
    "sigreg, one draw": functools.partial(VICRegEntropy, SIGReg().eval()),
    "sigreg, pooled": functools.partial(VICRegEntropy, SIGReg("stable-pretraining", slices=20).eval()),
    "renyi, order 1 of rows": functools.partial(VICRegEntropy, "renyi", order=1.0, normalize="rows"),
    "renyi, uncentred": functools.partial(VICRegEntropy, "renyi", normalize="uncentred_columns"),
    "decoupled contrastive learning": functools.partial(
        VICRegEntropy, "pairwise", bandwidth=0.7, normalize="rows", exclude_self=True, pool_views=True, exclude_positives=True
    ),
    "an estimator without kernels": functools.partial(VICRegEntropy, Stranger()),
}
EVEN = {2: (6, 6), 4: (5, 5, 5, 5)}
UNEVEN = {2: (3, 8), 4: (4, 1, 6, 2)}

#: an objective for most of the fused implementations, and one without a fused implementation
SOME = [
    "VICReg, official",
    "VICRegEntropy, log_det",
    "VICRegEntropy, pairwise",
    "VICRegEntropy, koleo",
    "VICRegEntropy, spacings",
    "sigreg, one draw",
    "VICRegEntropy, renyi",
    "decoupled contrastive learning",
    "an estimator without kernels",
]
every_objective = pytest.mark.parametrize("objective", OBJECTIVES)
two_and_four = pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])


def batches(rows, shape, views=2, dtype=torch.float64):
    """Return the views of the global batch, and the rows of this rank. Rank r holds `rows[r]` rows."""
    generator = torch.Generator().manual_seed(7)
    scale = torch.linspace(0.2, 1.5, shape[-1], dtype=torch.float64)
    whole = [torch.randn(sum(rows), *shape, generator=generator, dtype=torch.float64) * scale + 1 for _ in range(views)]
    start = sum(rows[: dist.get_rank()])
    return [[z.to(dtype)[part].clone().requires_grad_() for z in whole] for part in (slice(None), own(rows, start))]


def own(rows, start):
    return slice(start, start + rows[dist.get_rank()])


def evaluated(criterion, views, upstream=1.0):
    terms = criterion.terms(*views) if hasattr(criterion, "terms") else (criterion(*views),)
    gradients = torch.autograd.grad(upstream * terms[0], views)
    return torch.stack([term.detach() for term in terms]), gradients


def errors(build, rows, shape, views=2, upstream=1.0):
    """Return this rank's largest errors of terms and of gradients, compared with one process that holds the global batch."""
    whole, mine = batches(rows, shape, views)
    terms, gradients = evaluated(build(gather_distributed=False), whole, upstream)
    our_terms, our_gradients = evaluated(build(), mine, upstream)
    part = own(rows, sum(rows[: dist.get_rank()]))
    # DDP averages gradients over the ranks, so each rank returns its gradient times the number of ranks
    wrong = [(g[part] * len(rows) - ours).abs().max().item() for g, ours in zip(gradients, our_gradients, strict=True)]
    return (terms - our_terms).abs().max().item(), max(wrong)


def errors_everywhere(build, world):
    found = []
    for rows in (EVEN[world], UNEVEN[world]):
        # in turn: more than twice as many samples as dimensions, fewer samples than dimensions, 3 groups of 5 dimensions
        for shape in ((3,), (37,), (3, 5)):
            for by_gram in (True, False):
                # KEPT = 0 selects the code for large batches: it centres samples again at each use and keeps no centred copy
                for kept in (cpu.KEPT, 0):
                    with (
                        patch.object(vicreg, "prefers_gram", lambda *_, side=by_gram: side),
                        patch.object(log_det, "prefers_gram", lambda *_, side=by_gram: side),
                        patch.object(renyi, "prefers_gram", lambda *_, side=by_gram: side),
                        patch.object(cpu, "KEPT", kept),
                    ):
                        found.append(errors(build, rows, shape))
    found.append(errors(build, UNEVEN[world], (9,), views=3, upstream=-2.5))
    found.append(errors(build, UNEVEN[world], (150,), views=4))
    with patch.dict(os.environ, IT_LOSSES_BACKEND="reference"):
        found.append(errors(build, UNEVEN[world], (9,)))
    return torch.tensor(found).amax(dim=0).tolist()


@two_and_four
@every_objective
def test_the_loss_is_that_of_one_process_with_the_global_batch(objective, world):
    for terms, gradient in ranks.run(world, errors_everywhere, OBJECTIVES[objective], world):
        assert terms < 1e-10
        assert gradient < 1e-10


def errors_of_every_objective(rows):
    found = [errors(build, rows, shape) for build in OBJECTIVES.values() for shape in ((3,), (90,))]
    return torch.tensor(found).amax(dim=0).tolist()


@pytest.mark.parametrize("objective", ["VICReg, official", "VICRegEntropy, log_det"])
def test_ranks_whose_samples_fill_several_strips_of_a_product_are_one_process(objective):
    rows = (cpu.STRIP_SIDE + 5, cpu.STRIP_SIDE + 40)
    for terms, gradient in ranks.run(2, errors, OBJECTIVES[objective], rows, (2 * sum(rows),)):
        assert terms < 1e-10
        assert gradient < 1e-10


@pytest.mark.slow
def test_eight_ranks_are_one_process():
    for terms, gradient in ranks.run(8, errors_of_every_objective, (5, 1, 7, 4, 3, 9, 2, 6)):
        assert terms < 1e-10
        assert gradient < 1e-10


def entropies_of_all_ranks(name):
    whole, mine = batches((3, 8), (6,))
    return [functional.global_entropy(*mine, entropy=name).item(), sum(ESTIMATORS[name]()(z).item() for z in whole) / 2]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_is_local_unless_asked_for_the_entropy_of_all_ranks(name):
    for ours, truth in ranks.run(2, entropies_of_all_ranks, name):
        assert math.isclose(ours, truth, rel_tol=1e-12)


def gradient_when_added_up(objective):
    rows = (3, 8)
    whole, mine = batches(rows, (6,))
    _, truth = evaluated(OBJECTIVES[objective](gather_distributed=False), whole)
    _, ours = evaluated(OBJECTIVES[objective](gradient_reduction="sum"), mine)
    return (truth[0][own(rows, sum(rows[: dist.get_rank()]))] - ours[0]).abs().max().item()


@pytest.mark.parametrize("objective", SOME)
def test_gradient_reduction_sum_does_not_multiply_gradients_by_the_world_size(objective):
    assert max(ranks.run(2, gradient_when_added_up, objective)) < 1e-12


def gradient_after_the_ranks_have_parted(objective):
    rows = (3, 8)
    whole, mine = batches(rows, (6,))
    truth = torch.autograd.grad(OBJECTIVES[objective](gather_distributed=False)(*whole), whole)[0]
    part = own(rows, sum(rows[: dist.get_rank()]))
    loss = OBJECTIVES[objective]()(*mine)
    dist.destroy_process_group()
    return (torch.autograd.grad(loss, mine)[0] - 2 * truth[part]).abs().max().item()


@pytest.mark.parametrize("objective", SOME)
def test_the_backward_pass_needs_no_communication(objective):
    assert max(ranks.run(2, gradient_after_the_ranks_have_parted, objective)) < 1e-12


def gradients_of_some_views(objective):
    """Return the largest error of value and gradient if only the first view of rank 1 needs a gradient, or no view does."""
    rows = (3, 8)
    _, mine = batches(rows, (6,))
    criterion = OBJECTIVES[objective]()
    loss, (gradient, _) = evaluated(criterion, mine)
    views = [mine[0], mine[1].detach()] if dist.get_rank() else [z.detach() for z in mine]
    value = criterion(*views)
    with torch.no_grad():
        alone = criterion(*mine)
    wrong = (torch.autograd.grad(value, mine[0])[0] - gradient).abs().max().item() if dist.get_rank() else 0.0
    return max(wrong, (value - loss[0]).abs().item(), (alone - loss[0]).abs().item())


@pytest.mark.parametrize("objective", SOME)
def test_ranks_may_require_gradients_of_different_views(objective):
    assert max(ranks.run(2, gradients_of_some_views, objective)) < 1e-12


def refusals(build, odd):
    """Return this rank's error message if the last rank passes other views than the rest, or "no error"."""
    views = [torch.randn(4, 6) for _ in range(2)]
    if dist.get_rank() == dist.get_world_size() - 1:
        views = odd(views)
    try:
        build()(*views)
    except ViewError as error:
        return str(error)
    return "no error"


def other_dim(views):
    return [z[:, :5] for z in views]


def other_dtype(views):
    return [z.double() for z in views]


def other_number_of_views(views):
    return [*views, views[0]]


def integers(views):
    return [z.long() for z in views]


def views_unlike_each_other(views):
    return [views[0], views[1][:3]]


def no_samples(views):
    return [z[:0] for z in views]


ODD = {
    other_dim: "all ranks must call the same objective",
    other_dtype: "torch.float64",
    other_number_of_views: "3 views",
    integers: "ranks [1] of the group raised an error before the loss was computed",
    views_unlike_each_other: "ranks [1] of the group raised an error before the loss was computed",
    no_samples: "ranks [1] of the group raised an error before the loss was computed",
}


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.__name__)
@pytest.mark.parametrize("objective", ["VICReg, official", "an estimator without kernels"])
def test_views_that_differ_between_ranks_raise_on_every_rank(objective, odd):
    first, last = ranks.run(2, refusals, OBJECTIVES[objective], odd)
    assert ODD[odd] in first
    assert last != "no error"


def refusals_of_other_objectives(name):
    return refusals(OTHERS[name][dist.get_rank()], list)


#: name -> (criterion of rank 0, criterion of rank 1, text about rank 0 in both ranks' messages, text about rank 1)
OTHERS = {
    "weights": (lambda: VICReg(25.0, 7.0), lambda: VICReg(25.0, 8.0), "VICReg with .*7.0", "VICReg with .*8.0"),
    "constants": (
        lambda: VICRegEntropy("log_det", beta=3.0),
        lambda: VICRegEntropy("log_det", beta=4.0),
        r"LogDet\(beta=3.0, ",
        r"LogDet\(beta=4.0, ",
    ),
    "classes": (VICReg, lambda: VICRegEntropy("pairwise"), "VICReg with", r"Pairwise\("),
}


@pytest.mark.parametrize("name", OTHERS)
def test_ranks_that_minimise_different_objectives_are_told_so(name):
    for told in ranks.run(2, refusals_of_other_objectives, name):
        for rank, words in enumerate(OTHERS[name][2:]):
            assert re.search(rf"\nrank {rank}: 2 views of shape .*, torch.float32, objective {words}", told)
        assert "Build the same model and criterion on every rank" in told


def told_with_backends(builds, *backends):
    """Return this rank's error message if rank r runs `builds[r]` with backend `backends[r]`, or "no error"."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IT_LOSSES_BACKEND", backends[dist.get_rank()])
        try:
            builds[dist.get_rank()]()(*torch.randn(2, 4, 6))
        except ValueError as error:
            return str(error)
    return "no error"


@pytest.mark.parametrize("name", OTHERS)
def test_the_reference_compares_the_objectives_of_the_ranks_too(name):
    for told in ranks.run(2, reference_objectives, name):
        assert "all ranks must call the same objective" in told


def reference_objectives(name):
    return told_with_backends(OTHERS[name][:2], "reference", "reference")


@pytest.mark.parametrize(
    ("backend", "told"),
    [("reference", "with the same IT_LOSSES_BACKEND"), ("fastest", "ranks [1] of the group raised an error")],
)
def test_another_backend_on_one_rank_is_an_error_on_every_rank(backend, told):
    first, last = ranks.run(2, told_with_backends, (VICReg, VICReg), "fused", backend)
    assert told in first
    assert "IT_LOSSES_BACKEND" in last


def test_one_sample_in_all_is_an_error_on_every_rank():
    told = ranks.run(1, refusals, functools.partial(VICReg, process_group="0"), one_sample)
    assert "global batch size > 1" in told[0]


def one_sample(views):
    return [z[:1] for z in views]


def seen_of_a_nan(objective):
    _, mine = batches((4, 4), (20,))
    if dist.get_rank() == 1:
        mine[0].data[2, 3] = torch.nan
    criterion = OBJECTIVES[objective]()
    loss = criterion(*mine)
    return loss.item(), torch.autograd.grad(loss, mine)[0].isnan().any().item()


@every_objective
def test_a_nan_on_one_rank_is_seen_on_all(objective):
    for loss, in_gradient in ranks.run(2, seen_of_a_nan, objective):
        assert math.isnan(loss)
        assert in_gradient


def losses_in_groups():
    pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    mine = pairs[dist.get_rank() // 2]
    criterion = VICRegEntropy("log_det", process_group=mine)
    generator = torch.Generator().manual_seed(dist.get_rank() // 2)
    whole = torch.randn(2, 7, 5, generator=generator, dtype=torch.float64)
    part = slice(0, 3) if dist.get_rank() % 2 == 0 else slice(3, 7)
    views = [z[part].clone().requires_grad_() for z in whole]
    truth, truths = evaluated(VICRegEntropy("log_det", gather_distributed=False), [z.requires_grad_() for z in whole.unbind()])
    found = []
    for same in (criterion, copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        ours, gradients = evaluated(same, views)
        found += [(ours - truth).abs().max().item(), (gradients[0] - 2 * truths[0][part]).abs().max().item()]
    outsider = pairs[1 - dist.get_rank() // 2]
    try:
        VICReg(process_group=outsider)
    except ValueError as error:
        return max(found), str(error)


def test_a_group_of_ranks_may_share_a_batch_of_its_own():
    for error, told in ranks.run(4, losses_in_groups):
        assert error < 1e-12
        assert "a process group that contains this rank" in told


def test_a_group_that_is_gone_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="gradient_reduction"):
        VICReg(gradient_reduction="average")
    assert all("named 'nobody'" in told for told in ranks.run(1, told_of_a_lost_group))


def told_of_a_lost_group():
    try:
        VICReg(process_group="nobody")(*torch.randn(2, 4, 3))
    except ValueError as error:
        return str(error)


def loss_alone():
    views = torch.randn(2, 4, 3, dtype=torch.float64)
    return (VICReg()(*views) - VICReg(gather_distributed=False)(*views)).item()


def test_one_rank_is_one_process():
    assert ranks.run(1, loss_alone) == [0.0]


def errors_in_low_precision(objective, dtype):
    """Return the relative errors of terms and gradient, compared with float64, and the dtypes of loss and gradient."""
    rows = (3, 8)
    whole, mine = batches(rows, (24,), dtype=dtype)
    wide = [z.detach().double().requires_grad_() for z in whole]
    truth, truths = evaluated(OBJECTIVES[objective](gather_distributed=False), wide)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = OBJECTIVES[objective]().terms(*mine)
    gradients = torch.autograd.grad(terms.loss, mine)
    part = own(rows, sum(rows[: dist.get_rank()]))
    exact = 2 * truths[0][part]
    relative = ((gradients[0].double() - exact).norm() / exact.norm()).item()
    values = max(abs(ours.item() / t.item() - 1) for ours, t in zip(terms[1:], truth[1:], strict=True))
    return values, relative, terms.loss.dtype, gradients[0].dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("objective", [f"VICRegEntropy, {name}" for name in ESTIMATORS])
def test_low_precision_and_autocast_cost_the_rounding_of_the_gradient_alone(objective, dtype):
    for values, gradient, loss_dtype, gradient_dtype in ranks.run(2, errors_in_low_precision, objective, dtype):
        assert (loss_dtype, gradient_dtype) == (torch.float32, dtype)
        assert values < 1e-5
        assert gradient < max(torch.finfo(dtype).eps, 1e-5)


def difference_when_compiled(objective):
    torch._dynamo.reset()
    criterion, found = OBJECTIVES[objective](), []
    compiled = torch.compile(
        criterion, fullgraph=objective != "an estimator without kernels", dynamic=True, backend="aot_eager"
    )
    for rows in ((3, 8), (9, 4), (2, 5)):
        _, mine = batches(rows, (6,))
        terms, gradients = evaluated(criterion, mine)
        with warnings.catch_warnings():
            # ignore the compiler's own warnings
            warnings.simplefilter("ignore")
            loss = compiled(*mine)
            gradient = torch.autograd.grad(loss, mine)[0]
        found += [(loss - terms[0]).abs().item(), (gradient - gradients[0]).abs().max().item()]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("objective", SOME)
def test_a_compiled_criterion_has_the_same_loss_and_gradient(objective):
    assert max(max(found) for found in ranks.run(2, difference_when_compiled, objective)) < 1e-12


def second_derivative(objective):
    _, mine = batches((3, 8), (6,))
    try:
        (gradient,) = torch.autograd.grad(OBJECTIVES[objective]()(*mine), mine[:1], create_graph=True)
        gradient.sum().backward()
    except RuntimeError as error:
        return str(error)


@pytest.mark.parametrize("objective", SOME)
def test_a_second_derivative_is_an_error(objective):
    assert all("no second derivative" in told for told in ranks.run(2, second_derivative, objective))


def transformed():
    _, (a, b) = batches((3, 8), (6,))
    try:
        torch.func.grad(lambda z: VICReg()(z, b))(a)
    except RuntimeError as error:
        return str(error)


def test_a_transform_over_ranks_is_an_error_with_the_remedy():
    assert all("Pass gather_distributed=False" in told for told in ranks.run(2, transformed))


class OfFunction(Stranger):
    """An estimator whose constant is a function. Its repr shows a memory address, which differs between ranks."""

    checks: ClassVar = {"function": lambda name, value: value}

    def __init__(self):
        super().__init__()
        self.function = lambda z: z


def loss_with_a_function():
    return EntropyRegularizer(OfFunction())(torch.randn(8, 4)).item()


def test_a_constant_that_prints_its_address_does_not_differ_between_ranks():
    first, second = ranks.run(2, loss_with_a_function)
    assert first == second


def errors_far_from_zero(objective, shape):
    """Return the relative errors of two float32 gradients, ours and the reference's, for samples with mean near 100."""
    rows = (30, 50)
    whole, mine = batches(rows, shape, dtype=torch.float32)
    with torch.no_grad():
        for z in (*whole, *mine):
            z.add_(100)
    wide = [z.detach().double().requires_grad_() for z in whole]
    alone, part = OBJECTIVES[objective](gather_distributed=False), own(rows, sum(rows[: dist.get_rank()]))
    exact = evaluated(alone, wide)[1][0]
    with patch.dict(os.environ, IT_LOSSES_BACKEND="reference"):
        reference = evaluated(alone, whole)[1][0]
    ours = evaluated(OBJECTIVES[objective](), mine)[1][0]
    return [
        ((g.double() - truth).abs().max() / truth.abs().max()).item()
        for g, truth in ((ours / 2, exact[part]), (reference, exact))
    ]


@pytest.mark.parametrize("shape", [(20,), (120,)], ids=str)
@pytest.mark.parametrize("objective", SOME[:-1])
def test_the_rounding_of_a_mean_does_not_reach_the_gradient(objective, shape):
    for ours, reference in ranks.run(2, errors_far_from_zero, objective, shape):
        assert ours <= 4 * reference + 1e-6


def warnings_of_a_narrow_bandwidth():
    _, mine = batches((3, 8), (6,))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        VICRegEntropy(Pairwise(1e-3))(*mine)
        VICRegEntropy(Pairwise(3.0))(*mine)
    return [str(w.message) for w in caught]


def test_a_bandwidth_without_overlap_warns_on_every_rank():
    for told in ranks.run(2, warnings_of_a_narrow_bandwidth):
        assert len(told) == 1
        assert "log(batch)" in told[0]


def host_groups():
    devices_only = dist.new_group([0, 1], backend="cuda:gloo")
    hosts = cpu_group(devices_only)
    total = torch.ones(())
    dist.all_reduce(total, group=hosts)
    return cpu_group(dist.group.WORLD) is dist.group.WORLD, hosts is cpu_group(devices_only), total.item()


def test_a_group_without_a_cpu_backend_exchanges_sizes_by_gloo():
    assert ranks.run(2, host_groups) == [(True, True, 2.0)] * 2
