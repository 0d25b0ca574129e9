"""Couplings that vary by photo, by exact likelihood: `LabelCrf` with gates, as in the package."""

from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.beyond_pairwise.label_sets import HigherOrderCrf
from experiments.beyond_pairwise.unaries import Photos
from mlcrf.crf import Potentials
from mlcrf.inference import Exact
from mlcrf.model import LabelCrf
from mlcrf.objectives.exact_likelihood import exact_likelihood_loss

_BATCH = 500
_RATE = 0.01


@dataclass(frozen=True)
class Conditional:
    """A pairwise CRF whose couplings are J + sum_r tanh(g_r(x)) B_r.

    Gates see unaries and principal components of features, both standardised.

    Attributes:
        held_out: loss on photos held out after each epoch.
    """

    base: HigherOrderCrf
    model: LabelCrf
    mean: Tensor
    spread: Tensor
    held_out: list[float]

    def potentials(self, photos: Photos) -> Potentials:
        """The potentials of photos, float32."""
        unary = self.base.unary(photos.odds).detach()
        inputs = torch.cat([unary, photos.components], 1)
        found: Potentials = self.model(((inputs - self.mean) / self.spread).float())
        return found


def fit_conditional(
    base: HigherOrderCrf, photos: Photos, held_out: Photos, *, rank: int, decay: float, epochs: int
) -> Conditional:
    """Learn gates, their couplings, J and biases by AdamW from a fitted CRF with constant ones.

    Keeps the epoch of least loss on photos held out. Cost: 2^L states for each photo and step.
    """
    num_labels = photos.targets.shape[1]
    with torch.no_grad():
        inputs = torch.cat([base.unary(photos.odds), photos.components], 1)
        mean, spread = inputs.mean(0), inputs.std(0)
        model = LabelCrf(inputs.shape[1], num_labels, rank=rank)
        model.output.weight[:, :num_labels] = torch.diag(spread[:num_labels])
        model.output.bias.copy_(mean[:num_labels])
        model.pairwise.copy_(base.pairwise)
    model.output.weight.requires_grad_(requires_grad=False)
    crf = Conditional(base, model, mean, spread, [])
    assert model.gates is not None and model.factors is not None
    optimiser = torch.optim.AdamW(
        [
            {"params": [model.pairwise, model.output.bias], "weight_decay": 0.0},
            {"params": [*model.gates.parameters(), model.factors], "weight_decay": decay},
        ],
        lr=_RATE,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    generator = torch.Generator().manual_seed(0)
    crf.held_out.append(mean_set_loss(crf, held_out))
    best = model.clone().state_dict()
    for _ in range(epochs):
        for batch in torch.randperm(len(photos), generator=generator).split(_BATCH):
            wanted = torch.zeros(len(photos), dtype=torch.bool)
            wanted[batch] = True
            part = photos.rows(wanted)
            optimiser.zero_grad()
            loss = exact_likelihood_loss(crf.potentials(part), part.targets, exact=Exact())
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        schedule.step()
        crf.held_out.append(mean_set_loss(crf, held_out))
        if crf.held_out[-1] == min(crf.held_out):
            best = model.clone().state_dict()
    model.load_state_dict(best)
    return crf


@torch.no_grad()
def mean_set_loss(crf: Conditional, photos: Photos) -> float:
    """Return the mean negative log-probability of whole label sets."""
    return float(exact_likelihood_loss(crf.potentials(photos), photos.targets, exact=Exact()))
