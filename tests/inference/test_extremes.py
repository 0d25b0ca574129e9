"""Values of any size: every method returns, is finite, and does not claim what rounding took."""

import pytest
import torch

from mlcrf.crf import Potentials, full_edges
from mlcrf.errors import PotentialsError
from mlcrf.inference import AnnealedImportanceSampling, Gibbs, MeanField, Tap
from mlcrf.inference.modes import ROUNDED_AWAY, is_below, is_rounded_away
from tests.inference.methods import ANY, EXACT, LOWER, UPPER, Row, enumerated, rows
from tests.making import close

BOTH = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, 1.0, 1.0, -1.0, 1.0, 1.0])  # signs of ten pairs


def of_size(
    coupling: float, signs: torch.Tensor | float = 1.0, *, unary: float = 1.0, dtype: torch.dtype
) -> Potentials:
    """Two images of five labels, with couplings of one size."""
    drawn = torch.Generator().manual_seed(5)
    own = unary * torch.randn(2, 5, generator=drawn, dtype=torch.float64)
    pairwise = coupling * (signs * torch.ones(10, dtype=torch.float64))
    return Potentials(own.to(dtype), full_edges(5), pairwise.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("signs", [1.0, -1.0, BOTH], ids=["attract", "exclude", "both"])
@pytest.mark.parametrize(
    ("coupling", "unary"), [(1e-30, 1.0), (1e9, 1.0), (1e30, 1.0), (1.0, 1e9), (1e30, 1e30)]
)
@rows(lambda row: row.takes is ANY)
def test_results_are_finite_and_bounds_hold(
    row: Row, coupling: float, unary: float, signs: torch.Tensor | float, dtype: torch.dtype
) -> None:
    """Probabilities are from 0 to 1, log Z is finite, and an exact one equals brute force."""
    potentials = of_size(coupling, signs, unary=unary, dtype=dtype)
    method = row.cut(max_sweeps=60, tolerance=1e-6)
    posterior, truth = method(potentials), enumerated(potentials)
    for p in (posterior.marginals, posterior.pairwise_marginals):
        assert p is None or bool(((p >= 0) & (p <= 1)).all())
    rounding = 1e-5 * (1 + truth.log_partition.abs())
    if row.log_z is EXACT:
        close(posterior.log_partition, truth.log_partition, rounding)
    assert bool(posterior.log_partition.isfinite().all())
    if row.log_z is UPPER:
        assert bool((posterior.log_partition >= truth.log_partition - rounding).all())
    if row.log_z is LOWER:
        assert bool((posterior.log_partition <= truth.log_partition + rounding).all())
    best = method.map_states(potentials)
    assert bool(((best == 0) | (best == 1)).all())
    if row.log_z is EXACT:
        close(potentials.log_score(best), truth.best_score, rounding)


@pytest.mark.parametrize(
    "potentials",
    [
        lambda: of_size(1e38, dtype=torch.float32),
        lambda: of_size(1e38, -1.0, dtype=torch.float32),
        lambda: of_size(1.0, unary=1e38, dtype=torch.float32),
        lambda: of_size(1e305, dtype=torch.float64),
    ],
)
def test_scores_that_would_overflow_are_refused(potentials: object) -> None:
    """Else log Z would be infinite, or NaN, without a word."""
    assert callable(potentials)
    with pytest.raises(
        PotentialsError, match=r"add up to .*; the most that torch\.float\d\d allows"
    ):
        potentials()


@pytest.mark.parametrize(
    "method",
    [Gibbs(), AnnealedImportanceSampling(), MeanField(), MeanField(parallel=True), Tap()],
    ids=lambda method: method.name,
)
def test_what_rounding_took_is_not_claimed(method: Gibbs) -> None:
    """Couplings of 1e9 and -1e9 cancel, and float32 is left with 64 in place of a unary."""
    posterior = method(of_size(1e9, BOTH, dtype=torch.float32))
    assert not bool(posterior.converged.any())
    assert ROUNDED_AWAY in posterior.advice
    excluding = method(of_size(1e9, -1.0, dtype=torch.float32))
    assert ROUNDED_AWAY not in excluding.advice


def test_rounding_is_that_of_the_states_at_hand() -> None:
    """Large couplings of both signs do no harm to states in which they do not meet."""
    potentials = Potentials(
        torch.zeros(2, 3), torch.tensor([[0, 1], [0, 2]]), torch.tensor([1e9, -1e9])
    )
    apart = torch.tensor([[[1, 1, 0], [1, 0, 1]]])
    assert is_rounded_away(potentials, apart, torch.float32).tolist() == [False, False]
    meeting = torch.tensor([[[1, 1, 0], [1, 1, 1]]])
    assert is_rounded_away(potentials, meeting, torch.float32).tolist() == [False, True]
    assert is_rounded_away(potentials, meeting, torch.float64).tolist() == [False, False]


def test_a_log_z_below_a_score_is_told_from_rounding_by_the_type() -> None:
    """Of scores around 4e9 float64 tells nats apart; NaN is no log Z."""
    score = torch.tensor([4e9, 4e9, 1.0], dtype=torch.float64)
    log_z = torch.tensor([4e9 - 2, 4e9 - 0.1, torch.nan], dtype=torch.float64)
    assert is_below(log_z, score).tolist() == [True, False, True]
    assert is_below(log_z.float(), score.float()).tolist() == [False, False, True]
