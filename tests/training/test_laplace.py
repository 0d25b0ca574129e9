"""Logistic regression of one label from few examples."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mlcrf.training.laplace import fit_laplace


def examples(count: int, size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, size, generator=generator, dtype=torch.float64)
    p = (2 * inputs[:, 0] - 1).sigmoid()
    return inputs, torch.bernoulli(p, generator=generator)


@pytest.mark.parametrize(("count", "size"), [(40, 5), (12, 60)])
def test_the_mode_is_that_of_ridge_regression(count: int, size: int) -> None:
    """With more examples than inputs, and with fewer."""
    inputs, targets = examples(count, size)
    peer = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=10_000)
    peer.fit(inputs.numpy(), targets.numpy())
    fit = fit_laplace(inputs, targets)
    assert torch.allclose(fit.weights, torch.from_numpy(peer.coef_[0]), atol=1e-5)
    assert torch.allclose(fit.log_odds, inputs @ fit.weights)


def test_left_out_is_close_to_a_fit_without_the_example() -> None:
    inputs, targets = examples(60, 30)
    fit = fit_laplace(0.3 * inputs, targets)
    for one in range(0, 60, 7):
        others = torch.arange(60) != one
        without = fit_laplace(0.3 * inputs[others], targets[others])
        expected = float(0.3 * inputs[one] @ without.weights)
        assert float(fit.left_out[one]) == pytest.approx(expected, abs=0.02)
        assert abs(float(fit.log_odds[one]) - expected) > abs(float(fit.left_out[one]) - expected)


def test_an_example_that_counts_twice_is_two_examples() -> None:
    inputs, targets = examples(10, 3)
    counts = torch.ones(10, dtype=torch.float64)
    counts[4] = 2
    twice = torch.cat([torch.arange(10), torch.tensor([4])])
    offset = torch.linspace(-1, 1, 10).double()
    one = fit_laplace(inputs, targets, offset=offset, counts=counts)
    other = fit_laplace(inputs[twice], targets[twice], offset=offset[twice])
    assert torch.allclose(one.weights, other.weights, atol=1e-8)


def test_labels_that_a_line_separates_and_large_inputs() -> None:
    """The prior keeps the weights finite."""
    inputs, _ = examples(30, 4)
    fit = fit_laplace(100 * inputs, (inputs[:, 0] > 0).double())
    assert bool(torch.isfinite(fit.left_out).all())
    assert bool(((fit.log_odds > 0) == (inputs[:, 0] > 0)).all())
