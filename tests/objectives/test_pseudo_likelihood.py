"""Pseudo-likelihood with unknown labels: no label predicts itself, couplings keep their size."""

import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor

from mlcrf.crf import Potentials
from mlcrf.errors import PotentialsError
from mlcrf.model import LabelCrf
from mlcrf.objectives import independent_loss, pseudo_likelihood_loss
from mlcrf.objectives import pseudo_likelihood as module
from mlcrf.rules import Rules
from mlcrf.training.features import FeatureSpace
from mlcrf.training.fit import fit
from mlcrf.training.preconditioner import Penalty
from tests.making import close, draw_known, make_potentials
from tests.objectives.test_objectives import without
from tests.oracle import oracles
from tests.training.test_fit import sample_crf

MANY = 12  # unknown labels of 16: too many to enumerate


def by_mean_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no image have few enough unknown labels to enumerate them."""
    monkeypatch.setattr(module, "_MAX_TERMS", 0)


@pytest.mark.parametrize("share", [0.3, 0.6])
@pytest.mark.parametrize("enumerated", [True, False])
def test_couplings_keep_their_size(
    enumerated: bool, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slope of fitted over true couplings is 1 within about three standard errors."""
    features, targets, couplings = sample_crf(3000)
    targets[np.random.default_rng(3).random(targets.shape) < share] = -1
    if not enumerated:
        by_mean_field(monkeypatch)
    model, report = fit(
        FeatureSpace(features, targets),
        LabelCrf(2, 5), pseudo_likelihood_loss, Penalty(1e-5, 1e-5), tolerance=1e-6,
    )  # fmt: skip
    assert report.converged
    fitted = model.pairwise.detach().double()
    slope = float(fitted @ couplings / couplings.square().sum())
    assert slope == pytest.approx(1, abs=0.1 if share == 0.3 else 0.2)


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_are_enumerated_or_not_one_by_one(dtype: torch.dtype, varies: bool) -> None:
    """A batch of images with no, few and many unknown labels has the sum of their losses."""
    potentials = make_potentials(4, 16, varies=varies, dtype=dtype)
    numbers = [0, 3, 5, 5]
    targets = torch.cat(
        [draw_known(potentials.rows([i]), num_unknown=n, seed=i) for i, n in enumerate(numbers)]
    )
    alone = [
        pseudo_likelihood_loss(potentials.rows(torch.tensor([i])), targets[i : i + 1])
        for i in range(4)
    ]
    close(pseudo_likelihood_loss(potentials, targets), torch.stack(alone).mean(), 1e-5)


@pytest.mark.parametrize("varies", [False, True])
def test_gradient_with_many_unknown_labels(varies: bool) -> None:
    """Finite differences agree with the gradient through the sweeps of mean field."""
    made = make_potentials(3, 16, varies=varies)
    targets = draw_known(made, num_unknown=MANY)

    def value(unary: Tensor, pairwise: Tensor) -> Tensor:
        return pseudo_likelihood_loss(Potentials(unary, made.edges, pairwise), targets)

    inputs = (made.unary.requires_grad_(), made.pairwise.requires_grad_())
    assert torch.autograd.gradcheck(value, inputs, fast_mode=True)


def test_many_unknown_labels_without_couplings() -> None:
    """At zero coupling each known label is scored once, by itself."""
    made = make_potentials(5, 16)
    targets = draw_known(made, num_unknown=MANY)
    potentials = Potentials(made.unary, made.edges, torch.zeros_like(made.pairwise))
    close(pseudo_likelihood_loss(potentials, targets), independent_loss(potentials, targets), 1e-12)


@pytest.mark.parametrize("num_unknown", [MANY, 3])
def test_no_label_predicts_itself(num_unknown: int) -> None:
    """The log-odds of a label are the same whether it is present or absent."""
    potentials = make_potentials(6, 16, pairwise=1.0)
    targets = draw_known(potentials, num_unknown=num_unknown)
    label = int((targets[0] >= 0).nonzero()[0])
    logits = []
    for value in (0, 1):
        targets[0, label] = value
        fields = potentials.conditional_logits(targets.clamp(min=0))
        logits.append(module._sum_out_unknown(potentials, targets, fields, 0)[0, label])
    close(logits[0], logits[1], 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_unknown_parent_does_not_give_its_child_away(dtype: torch.dtype) -> None:
    """The parent of a present child is summed out when the child is predicted."""
    made = make_potentials(2, 4, dtype=dtype)
    potentials = Potentials(made.unary, made.edges, made.pairwise, Rules(((0, 1),)))
    targets = torch.tensor([[1, -1, 0, 1], [0, -1, 1, -1]])
    losses = []
    for one, known in zip(oracles(made), targets.tolist(), strict=True):
        for label in [i for i, value in enumerate(known) if value >= 0]:
            agreeing = {
                state: score
                for state, score in without(one, known, label).scores.items()
                if state[0] <= state[1]
            }
            right = [score for state, score in agreeing.items() if state[label] == known[label]]
            losses.append(log_sum(agreeing.values()) - log_sum(right))
    wanted = math.fsum(losses) / 2
    assert float(pseudo_likelihood_loss(potentials, targets)) == pytest.approx(wanted, abs=2e-5)


def log_sum(scores: Iterable[float]) -> float:
    return math.log(math.fsum(math.exp(score) for score in scores))


def test_contradicting_labels_are_refused() -> None:
    """A present child with an absent parent, in a partly known image."""
    made = make_potentials(1, 4)
    potentials = Potentials(made.unary, made.edges, made.pairwise, Rules(((0, 1),)))
    with pytest.raises(PotentialsError, match="label 0 without label 1"):
        pseudo_likelihood_loss(potentials, torch.tensor([[1, 0, -1, -1]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-30, 0.5, 40.0, 3000.0])
@pytest.mark.parametrize("num_unknown", [1, 2, 5])
def test_enumeration_of_couplings_of_any_size(
    num_unknown: int, size: float, dtype: torch.dtype
) -> None:
    """It is that of brute force, where products of the halves underflow too."""
    made = make_potentials(6, 8, unary=2.0, pairwise=size, dtype=dtype)
    unary, pairwise = made.unary.requires_grad_(), made.pairwise.requires_grad_()
    potentials = Potentials(unary, made.edges, pairwise)
    targets = draw_known(potentials, num_unknown=num_unknown)
    loss = pseudo_likelihood_loss(potentials, targets)
    loss.backward()
    wanted, gradient = 0.0, torch.zeros(6, 8, dtype=torch.float64)
    for image, (one, known) in enumerate(zip(oracles(potentials, targets), targets, strict=True)):
        for label in (known >= 0).nonzero()[:, 0].tolist():
            free = without(one, known.tolist(), label)
            wanted += (free.log_partition - one.log_partition) / 6
            gradient[image] += torch.tensor(free.marginals) / 6 - torch.tensor(one.marginals) / 6
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-5, abs=1e-5)
    assert unary.grad is not None and pairwise.grad is not None
    close(unary.grad, gradient.to(dtype), 1e-5 if size < 3000 else 1e-3)
    assert bool(pairwise.grad.isfinite().all())
