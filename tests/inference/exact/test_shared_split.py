"""One kernel for calls with the same couplings: the same answers, computed once."""

from dataclasses import replace

import pytest
import torch

from mlcrf.inference import Exact, Posterior
from mlcrf.inference.exact import shared_split as module
from mlcrf.objectives import ExactLikelihood, pseudo_likelihood_loss, sharing
from mlcrf.rules import Rules
from tests.making import close, draw_known, make_potentials


def same(one: Posterior, other: Posterior, tolerance: float = 1e-6) -> None:
    close(one.marginals, other.marginals, tolerance)
    close(one.log_partition, other.log_partition, 1e-4)


def test_parts_share_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 22 labels, whose half-states are sorted once; other couplings have another."""
    made: list[object] = []

    class Counted(module.Split):
        def __init__(self, *args: object, **more: object) -> None:
            super().__init__(*args, **more)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(module, "Split", Counted)
    whole = make_potentials(1100, 22, pairwise=0.3, unary=3, dtype=torch.float32)
    shared = Exact(leave_out=1e-4).sharing()
    for rows in (slice(0, 550), slice(550, 1100)):
        same(shared(whole.rows(rows)), Exact()(whole.rows(rows)), 2e-4)
    assert len(made) == 1
    stronger = replace(whole, pairwise=2 * whole.pairwise).rows(slice(0, 20))
    same(shared(stronger), Exact()(stronger))
    assert len(made) == 2


def test_gradients_and_known_labels() -> None:
    shared = Exact().sharing()
    for seed in (0, 1):
        potentials = make_potentials(8, 10, dtype=torch.float32, seed=seed)
        potentials.pairwise.requires_grad_()
        for known in (None, draw_known(potentials, num_unknown=3), None):
            grads = []
            for method in (shared, Exact()):
                found = method(potentials, known=known).log_partition.sum()
                grads.append(torch.autograd.grad(found, potentials.pairwise)[0])
            close(grads[0], grads[1], 1e-5)


def test_other_rules_have_another_kernel() -> None:
    shared = Exact().sharing()
    free = make_potentials(4, 8)
    ruled = replace(free, rules=Rules(((0, 1),)))
    same(shared(free), Exact()(free))
    same(shared(ruled), Exact()(ruled))
    assert not torch.allclose(shared(ruled).marginals, shared(free).marginals)


def test_only_exact_likelihood_is_shared() -> None:
    loss = ExactLikelihood()
    shared = sharing(loss)
    assert isinstance(shared.exact, Exact)
    assert shared.exact.shared is not None
    assert shared == loss  # what is shared is no setting
    assert sharing(pseudo_likelihood_loss) is pseudo_likelihood_loss
