"""Gaussian and von Mises-Fisher likelihoods are right for every normalization, in both implementations and on two ranks."""

import itertools

import pytest
import ranks
import torch
import torch.distributed as dist
from torch.nn import functional

from it_losses import LogDet, Pairwise, VarianceCovariance, VICRegEntropy, theory
from it_losses.normalize import check_normalization, normalized

NORMALIZATIONS = [None, "rows", "columns", "uncentred_columns"]
ESTIMATORS = {"log_det": LogDet, "pairwise": lambda: Pairwise(4.0), "vicreg": VarianceCovariance}
EVERY_PAIR = list(itertools.product(ESTIMATORS, NORMALIZATIONS, ["gaussian", "von_mises_fisher"]))
every_pair = pytest.mark.parametrize(("name", "normalize", "likelihood"), EVERY_PAIR)


def criterion_of(name, normalize, likelihood, **options):
    estimator = ESTIMATORS[name]()
    estimator.normalize = normalize
    return VICRegEntropy(estimator, invariance=likelihood, invariance_weight=3.0, entropy_weight=0.7, **options)


def batch(*shape, dtype=torch.float64):
    scales = torch.linspace(0.5, 2, shape[-1], dtype=dtype)
    return [(torch.randn(*shape, dtype=dtype) * scales + 0.3).requires_grad_() for _ in range(2)]


def evaluated(criterion, views):
    terms = criterion.terms(*views)
    return [*terms, *torch.autograd.grad(1.7 * terms.loss, views)]


def test_rows_have_unit_norm_and_columns_unit_variance():
    z = torch.randn(9, 4) * 3 + 1
    torch.testing.assert_close(normalized(z, "rows").norm(dim=1), torch.ones(9))
    columns = normalized(z, "columns")
    torch.testing.assert_close(columns.mean(dim=0), torch.zeros(4))
    torch.testing.assert_close(columns.var(dim=0, unbiased=False), torch.ones(4))
    uncentred = normalized(z, "uncentred_columns")
    torch.testing.assert_close(uncentred.square().mean(dim=0), torch.ones(4))
    torch.testing.assert_close(uncentred[0] / uncentred[1], z[0] / z[1])
    assert normalized(z, None) is z


def test_vectors_without_a_direction_stay_zero():
    assert not normalized(torch.zeros(3, 4), "rows").any() and not normalized(torch.zeros(3, 4), "uncentred_columns").any()
    assert not normalized(torch.full((3, 4), 0.3), "columns").any()


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_column_without_variance_gets_no_gradient_of_rounding(dtype, backend, monkeypatch):
    monkeypatch.setenv("IT_LOSSES_BACKEND", backend)
    views = batch(200, 6, dtype=dtype)
    views[0].data[:, 2] = 0.3
    criterion = criterion_of("log_det", "columns", "gaussian")
    gradients = torch.autograd.grad(criterion(*views), views)
    assert not gradients[0][:, 2].any()
    assert max(g.abs().max() for g in gradients) < 1


@pytest.mark.parametrize("wrong", ["row", True, 1, "layer"])
def test_an_unknown_normalization_is_refused(wrong):
    with pytest.raises(ValueError, match='normalize must be None, "rows", "columns" or "unc'):
        check_normalization("normalize", wrong)


@every_pair
@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (6, 2, 3), (80, 40)], ids=str)
def test_the_fused_implementations_follow_the_reference(name, normalize, likelihood, shape, monkeypatch):
    views = batch(*shape)
    fused = evaluated(criterion_of(name, normalize, likelihood), views)
    monkeypatch.setenv("IT_LOSSES_BACKEND", "reference")
    torch.testing.assert_close(fused, evaluated(criterion_of(name, normalize, likelihood), views), rtol=1e-9, atol=1e-11)


@every_pair
def test_the_criterion_is_the_formula(name, normalize, likelihood):
    views = batch(12, 5)
    terms = criterion_of(name, normalize, likelihood).terms(*views)
    u_a, u_b = (normalized(z, normalize) for z in views)
    cosine = functional.cosine_similarity(*views)
    invariance = (1 - cosine).mean() if likelihood == "von_mises_fisher" else (u_a - u_b).square().mean()
    estimator = ESTIMATORS[name]()
    entropy = (estimator(u_a) + estimator(u_b)) / 2
    torch.testing.assert_close(list(terms), [3 * invariance - 0.7 * entropy, invariance, entropy], rtol=1e-9, atol=1e-11)


def on_a_rank(pair):
    torch.manual_seed(0)
    own = slice(0, 4) if dist.get_rank() == 0 else slice(4, 11)
    views = [z.detach()[own].requires_grad_() for z in batch(11, 4)]
    terms = criterion_of(*pair, gradient_reduction="sum").terms(*views)
    (1.7 * terms.loss).backward()
    return [t.detach() for t in terms], [z.grad for z in views]


def all_on_a_rank():
    return [on_a_rank(pair) for pair in EVERY_PAIR]


def test_two_uneven_ranks_are_one_process():
    for pair, (terms, first), (_, second) in zip(EVERY_PAIR, *ranks.run(2, all_on_a_rank), strict=True):
        torch.manual_seed(0)
        expected = evaluated(criterion_of(*pair), batch(11, 4))
        torch.testing.assert_close(terms, [t.detach() for t in expected[:3]], rtol=1e-10, atol=1e-12)
        gradients = [torch.cat(parts) for parts in zip(first, second, strict=True)]
        torch.testing.assert_close(gradients, list(expected[3:]), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("normalize", NORMALIZATIONS[1:])
def test_half_precision_is_normalized_in_float32(normalize, dtype):
    views = [z.detach().to(dtype).requires_grad_() for z in batch(24, 12)]
    criterion = criterion_of("log_det", normalize, "gaussian")
    value = criterion(*views)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, criterion(*(z.float() for z in views)))
    value.backward()
    assert views[0].grad.dtype == dtype and views[0].grad.isfinite().all()


@pytest.mark.parametrize("likelihood", ["gaussian", "von_mises_fisher"])
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_one_graph_serves_every_batch_size(normalize, likelihood):
    criterion = criterion_of("log_det", normalize, likelihood)
    graphs = []
    compiled = torch.compile(criterion, fullgraph=True, dynamic=True, backend=lambda graph, _: graphs.append(graph) or graph)
    for rows in (8, 12, 17):
        views = batch(rows, 5)
        torch.testing.assert_close(compiled(*views), criterion(*views))
    assert len(graphs) == 1


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("likelihood", ["gaussian", "von_mises_fisher"])
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_the_gradient_of_compiled_code_is_that_of_eager_code(normalize, likelihood, trains):
    criterion = criterion_of("log_det", normalize, likelihood)
    if trains:
        criterion.entropy_weight = torch.nn.Parameter(torch.tensor(3.0))
    compiled = torch.compile(criterion, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (8, 12):
        views, again = (batch(rows, 5) for _ in range(2))
        again = [z.detach().clone().requires_grad_() for z in views]
        compiled(*views).backward()
        criterion(*again).backward()
        torch.testing.assert_close([z.grad for z in views], [z.grad for z in again])


def test_trainable_weights_train_with_either_likelihood():
    views = batch(12, 5)
    weight = torch.nn.Parameter(torch.tensor(2.0))
    criterion = VICRegEntropy("log_det", invariance="von_mises_fisher", invariance_weight=weight)
    terms = criterion.terms(*views)
    terms.loss.backward()
    torch.testing.assert_close(weight.grad.double(), terms.invariance, check_dtype=False)


def test_default_weights_agree_at_unit_variance():
    gaussian, cosine = VICRegEntropy("log_det"), VICRegEntropy("log_det", invariance="von_mises_fisher")
    assert cosine.invariance_weight == 2 * gaussian.invariance_weight
    assert cosine.entropy_weight == gaussian.entropy_weight


def test_an_unknown_likelihood_is_refused():
    with pytest.raises(ValueError, match="invariance must be one of"):
        VICRegEntropy("log_det", invariance="laplace")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_log_likelihood_of_half_precision_has_the_digits_of_float32(dtype):
    z = torch.randn(8, 1024).to(dtype)
    value, exact = (theory.von_mises_fisher_log_likelihood(x, x, concentration=10.0) for x in (z, z.double()))
    torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=0)
