"""The normality test equals scipy's, is calibrated on Gaussians, gives NaN for dead units, and says if scipy is missing."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from it_losses import theory

stats = pytest.importorskip("scipy.stats")


def test_p_values_are_scipys_and_keep_the_shape():
    samples = torch.randn(50, 3, 4)
    p_values = theory.normality_p_values(samples)
    assert p_values.shape == (3, 4)
    np.testing.assert_allclose(p_values, stats.normaltest(samples.double().numpy(), axis=0).pvalue, rtol=1e-12)


def test_p_values_of_an_affine_network_are_uniform():
    p_values = theory.output_normality(nn.Linear(8, 4), torch.randn(50, 8), 0.5, copies=512)
    assert p_values.shape == (50, 4)
    # the four outputs of an input are correlated, so only one is tested
    assert stats.kstest(p_values[:, 0].numpy(), "uniform").pvalue > 0.01


def test_noise_beyond_the_linear_region_gives_small_p_values():
    network = nn.Sequential(nn.Linear(8, 4), nn.ReLU()).eval()
    x = torch.randn(20, 8)
    small = theory.output_normality(network, x, 1e-3).nanmean()
    large = theory.output_normality(network, x, 2.0).nanmean()
    assert small > 0.3
    assert large < 0.01


def test_a_unit_that_is_never_active_has_no_p_value():
    samples = torch.cat([torch.randn(30, 1), torch.zeros(30, 1)], dim=1)
    assert theory.normality_p_values(samples).isnan().tolist() == [False, True]


def test_too_few_samples_are_an_error():
    with pytest.raises(ValueError, match="at least 20"):
        theory.normality_p_values(torch.randn(8, 3))


def test_without_scipy_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ImportError, match="pip install scipy"):
        theory.normality_p_values(torch.randn(30, 3))
