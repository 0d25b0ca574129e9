"""Mean field alone; properties of all methods are in the table."""

from dataclasses import replace

import pytest
import torch

from mlcrf.errors import SettingsError
from mlcrf.inference import MeanField
from tests.making import make_potentials


@pytest.mark.parametrize("parallel", [False, True])
def test_converges_image_by_image(parallel: bool) -> None:
    """An image has converged where its last sweep moved no marginal by more than the tolerance."""
    potentials = make_potentials(20, 6, unary=3.0, pairwise=3.0)
    sweeps = 16 if parallel else 6
    settings = {"tolerance": 1e-4, "parallel": parallel, "second_start": False}
    posterior = MeanField(max_sweeps=sweeps, **settings)(potentials)
    before = MeanField(max_sweeps=sweeps - 1, **settings)(potentials)
    moved = (posterior.marginals - before.marginals).abs().amax(-1)
    assert posterior.converged.unique().tolist() == [False, True]
    assert torch.equal(posterior.converged, moved <= 1e-4)


@pytest.mark.parametrize("parallel", [False, True])
def test_unrolled_sweeps_count_as_converged(parallel: bool) -> None:
    """The same marginals, but the number of sweeps is the method's definition: no advice."""
    potentials = make_potentials(20, 6, unary=3.0, pairwise=3.0)
    plain = MeanField(max_sweeps=3, parallel=parallel)
    unrolled = replace(plain, unrolled=True)(potentials)
    assert not plain(potentials).converged.all()
    assert unrolled.converged.all() and not unrolled.advice
    assert torch.equal(unrolled.marginals, plain(potentials).marginals)


def test_both_forms_agree_at_weak_couplings() -> None:
    """Both find the fixed point if there is one alone."""
    potentials = make_potentials(10, 6, unary=2.0, pairwise=0.8)
    one, other = (
        MeanField(max_sweeps=500, tolerance=1e-10, parallel=parallel)(potentials)
        for parallel in (False, True)
    )
    assert float((one.marginals - other.marginals).abs().max()) < 1e-8


@pytest.mark.parametrize("damping", [-0.1, 1.0])
def test_damping_out_of_range_is_refused(damping: float) -> None:
    """Nothing would ever move at 1; the error names the range."""
    with pytest.raises(SettingsError, match="mean field: damping: expected 0 to below 1, got"):
        MeanField(damping=damping)
