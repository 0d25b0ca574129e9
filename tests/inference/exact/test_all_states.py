"""Couplings that vary by image: all images at once equal each image alone."""

import pytest
import torch

from mlcrf.crf import Potentials
from mlcrf.inference import Exact, enumeration
from mlcrf.inference.exact import all_states
from mlcrf.rules import Rules
from tests.making import close, draw_known, make_potentials

EXACT = Exact(pairwise_marginals=True)


@pytest.mark.parametrize("at_once", [1, 3 * 2**7, 2**19])
@pytest.mark.parametrize("size", [0.5, 300.0])
def test_a_batch_equals_its_images(
    at_once: int, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each as if its couplings were shared by all, with rules and known labels, in any parts."""
    monkeypatch.setattr(all_states, "_AT_ONCE", at_once)
    made = make_potentials(7, 8, unary=size, pairwise=size, varies=True)
    rules = Rules(((1, 0), (5, 0), (7, 6)))
    whole = Potentials(made.unary, made.edges, made.pairwise, rules)
    known = draw_known(whole, num_unknown=6)
    known[:, [0, 6]] = -1
    posterior, best = EXACT(whole, known=known), EXACT.map_states(whole, known=known)
    for row in range(7):
        one = slice(row, row + 1)
        alone = Potentials(made.unary[one], made.edges, made.pairwise[row], rules)
        wanted = EXACT(alone, known=known[one])
        close(posterior.log_partition[one], wanted.log_partition, 1e-11 * max(1, size))
        close(posterior.marginals[one], wanted.marginals, 1e-11)
        assert posterior.pairwise_marginals is not None
        assert wanted.pairwise_marginals is not None
        close(posterior.pairwise_marginals[one], wanted.pairwise_marginals, 1e-11)
        assert torch.equal(best[one], EXACT.map_states(alone, known=known[one]))


def test_no_kernel_is_made_for_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """None at all up to sixteen labels, where their couplings vary."""
    potentials = make_potentials(4, 6, varies=True, dtype=torch.float32)
    wanted = EXACT(potentials)
    assert wanted.marginals.dtype == torch.float32
    monkeypatch.delattr(enumeration, "Split")
    close(EXACT(potentials).marginals, wanted.marginals, 0)
    assert EXACT(potentials.rows(slice(0, 0))).marginals.shape == (0, 6)
    assert EXACT.map_states(potentials.rows(slice(0, 0))).shape == (0, 6)
